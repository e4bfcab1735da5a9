"""Classes that are denoisers by themselves and parts of other models elsewhere."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SCRIPT = """
import json, warnings
warnings.simplefilter("ignore")
from diffusers import ControlNetModel, Transformer2DModel, UNet2DConditionModel

sizes = dict(block_out_channels=(8, 8), layers_per_block=1, cross_attention_dim=8,
             attention_head_dim=2, norm_num_groups=4)
down = ("CrossAttnDownBlock2D", "DownBlock2D")
unet = UNet2DConditionModel(sample_size=8, down_block_types=down,
                            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **sizes)
control = ControlNetModel(down_block_types=down, **sizes)
alone = Transformer2DModel(num_attention_heads=2, attention_head_dim=4, in_channels=8,
                           norm_num_groups=4)
import autocache
models = {"unet": unet, "control": control, "alone": alone}
print(json.dumps({name: autocache.is_patched(model) for name, model in models.items()}))
print(json.dumps([autocache.is_patched(module) for module in unet.modules()
                  if isinstance(module, Transformer2DModel)]))
"""


def test_parts_of_a_model_are_no_denoisers(run_python: Run) -> None:
    """A UNet is patched as a whole; what it and a ControlNet are built from stays plain."""
    done = run_python("-c", SCRIPT, AUTOCACHE="attention:step_start=1,step_interval=2")
    models, parts = map(json.loads, done.stdout.splitlines()[-2:])
    assert models == {"unet": True, "control": False, "alone": False}
    assert parts
    assert not any(parts)
    lines = [line for line in done.stderr.splitlines() if line.startswith("autocache: ")]
    assert len(lines) == 1
    assert "UNet2DConditionModel" in lines[0]


OTHER = """
import json
from diffusers import DiTTransformer2DModel
import autocache
sizes = dict(in_channels=4, num_attention_heads=2, attention_head_dim=4, num_layers=1,
             num_embeds_ada_norm=8, sample_size=8)
print(json.dumps([autocache.is_patched(DiTTransformer2DModel(**sizes)) for _ in range(2)]))
"""


def test_a_strategy_that_does_not_apply_stops_no_program(run_python: Run) -> None:
    """One line says that the model runs as it is, and why; the program goes on."""
    done = run_python("-c", OTHER, AUTOCACHE="deepcache")
    assert json.loads(done.stdout) == [False, False]
    lines = [line for line in done.stderr.splitlines() if line.startswith("autocache: ")]
    assert len(lines) == 1
    assert lines[0].startswith("autocache: DiTTransformer2DModel runs as it is: ")
    assert "no UNet levels" in lines[0]
