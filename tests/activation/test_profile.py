"""AUTOCACHE=profile.yaml, for a program that knows nothing of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest

from autocache import Profile
from autocache.tuning.made_for import MadeFor

Run = Callable[..., "subprocess.CompletedProcess[str]"]

FLUX: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (4, 4, 8),
}
SCRIPT = f"""
import warnings
warnings.simplefilter("ignore")
from diffusers import DiTTransformer2DModel, FluxTransformer2DModel
FLUX = {FLUX!r}
FluxTransformer2DModel(**FLUX)
FluxTransformer2DModel(**FLUX)
FluxTransformer2DModel(**{{**FLUX, "num_layers": 1}})
for _ in range(2):
    DiTTransformer2DModel(in_channels=4, out_channels=8, num_attention_heads=2, sample_size=8,
                          attention_head_dim=4, num_layers=3, num_embeds_ada_norm=8, patch_size=2)
print("done")
"""


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a strategy with something fitted, so that nothing but the same model will do."""
    made_for = MadeFor.of(diffusers.FluxTransformer2DModel(**FLUX))
    parameters = {"coefficients": [1.0, 0.0], "threshold": 0.5}
    made = Profile(strategy="teacache", parameters=parameters, made_for=made_for)
    return made.write(tmp_path_factory.mktemp("profiles") / "tuned.yaml")


def test_it_patches_the_model_it_was_made_for_and_no_other(
    run_python: Run, tmp_path: Path, profile: Path
) -> None:
    """The others run as they are, which is said in a line for each class; the program goes on."""
    script, stats = tmp_path / "script.py", tmp_path / "stats.json"
    script.write_text(SCRIPT)
    done = run_python(script, AUTOCACHE=str(profile), AUTOCACHE_STATS=str(stats))
    assert done.stdout == "done\n"
    lines = [line for line in done.stderr.splitlines() if line.startswith("autocache: ")]
    patched = [line for line in lines if " on FluxTransformer2DModel, 2+3 blocks" in line]
    assert len(patched) == 2
    assert all(line.endswith(f"profile {profile}") for line in patched)
    others = [line for line in lines if line not in patched]
    assert len(others) == 2
    assert "FluxTransformer2DModel runs as it is: profile" in others[0]
    assert "coefficients were fitted to that model" in others[0]
    assert "DiTTransformer2DModel runs as it is: profile" in others[1]
    assert "was made for diffusers.models.transformers.transformer_flux:" in others[1]
    runs = json.loads(stats.read_text())
    assert [entry["profile"] for entry in runs] == [str(profile)] * 2


def test_a_wrong_file_stops_who_makes_the_model(run_python: Run, tmp_path: Path) -> None:
    """With the line that is wrong: a typo must not pass for a speed-up."""
    file, script = tmp_path / "x.yaml", tmp_path / "script.py"
    file.write_text("strategy: teacache\nparameters: {treshold: 0.1}\n")
    script.write_text(
        "import diffusers\n"
        "try:\n"
        f"    diffusers.FluxTransformer2DModel(**{FLUX!r})\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = run_python(script, AUTOCACHE=str(file))
    assert done.stdout.startswith(f"ProfileError {file}:2:14: ")
    assert "did you mean 'threshold'" in done.stdout
