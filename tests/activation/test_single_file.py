"""A model loaded from one file of weights, under the environment variable."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SCRIPT = """
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

model = FluxTransformer2DModel(
    patch_size=1, in_channels=4, num_layers=2, num_single_layers=3, attention_head_dim=16,
    num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
    axes_dims_rope=(4, 4, 8),
)
model.save_config("model")
save_file(model.state_dict(), "model/one.safetensors")
del model
loaded = FluxTransformer2DModel.from_single_file("model/one.safetensors", config="model")

import autocache
print("patched", autocache.is_patched(loaded))
"""


def test_a_model_from_a_single_file_is_patched(run_python: Run) -> None:
    """`from_single_file` at model level is patched as any other construction is."""
    done = run_python("-c", SCRIPT, AUTOCACHE="dit_block")
    assert done.stdout.strip().endswith("patched True")
    assert done.stderr.count("autocache: dit_block on FluxTransformer2DModel, 2+3 blocks") == 2
