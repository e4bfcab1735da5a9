"""Every way a program comes by a model, under the environment variable."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

CONFIG = """
FLUX = dict(patch_size=1, in_channels=4, num_layers=2, num_single_layers=3, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8))
DIT = dict(in_channels=4, out_channels=8, num_attention_heads=2, attention_head_dim=4,
           num_layers=3, num_embeds_ada_norm=8, patch_size=2, sample_size=8)
VAE = dict(block_out_channels=(4,), norm_num_groups=2, latent_channels=4)
"""

WAYS = (
    CONFIG
    + """
import json, sys, warnings
warnings.simplefilter("ignore")
from diffusers import (AutoencoderKL, DDIMScheduler, DiffusionPipeline, DiTPipeline,
                       DiTTransformer2DModel, FluxTransformer2DModel)
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
assert not [name for name in sys.modules if name.startswith("autocache.runtime")]

class Bare(FluxTransformer2DModel):
    pass

class Own(DiTTransformer2DModel):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.finished = True

class Foreign(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self):
        super().__init__()

def pipeline(transformer):
    return DiTPipeline(transformer, AutoencoderKL(**VAE), DDIMScheduler())

flux = FluxTransformer2DModel(**FLUX)
flux.save_pretrained("flux")
pipe = pipeline(DiTTransformer2DModel(**DIT))
pipe.save_pretrained("pipe")
loaded = DiffusionPipeline.from_pretrained("pipe")
again = DiTPipeline.from_pipe(pipe)
own = Own(**DIT)
models = {
    "constructor": flux,
    "from_config": FluxTransformer2DModel.from_config(flux.config),
    "from_pretrained": FluxTransformer2DModel.from_pretrained("flux"),
    "subclass": Bare(**FLUX),
    "pipeline": pipe.transformer,
    "loaded pipeline": loaded.transformer,
    "from_pipe": again.transformer,
    "vae": pipe.vae,
}

from autocache import api
patched = {way: api.is_patched(model) for way, model in models.items()}
patched["own constructor"] = api.is_patched(own)
patched["own constructor in a pipeline"] = api.is_patched(pipeline(own).transformer)
pipeline(Foreign()), pipeline(Foreign())
loaded([1], num_inference_steps=6, guidance_scale=1.0)

import os
errors = {}
def attempt(value):
    os.environ["AUTOCACHE"] = value
    try:
        model = DiTTransformer2DModel(**DIT)
        errors[value] = "patched" if api.is_patched(model) else "plain"
    except Exception as error:
        errors[value] = f"{type(error).__name__}: {error}"
for value in ("dit_blok", "dit_block:step_intervall=2", "dit_block:step_interval=no", "off",
              "dit_block:step_interval=3"):
    attempt(value)
print(json.dumps({
    "patched": patched,
    "same": again.transformer is pipe.transformer,
    "type": type(pipe.transformer).__name__,
    "errors": errors,
}))
"""
)


class Facts:
    """What the script printed, what it said on stderr, and the statistics it left."""

    def __init__(self, done: subprocess.CompletedProcess[str], stats: Path) -> None:
        self.seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.said = [row for row in done.stderr.splitlines() if row.startswith("autocache: ")]
        self.stats: list[dict[str, Any]] = json.loads(stats.read_text())


@pytest.fixture(scope="module")
def facts(run_python: Run, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """One interpreter for all questions: importing diffusers takes seconds."""
    stats = tmp_path_factory.mktemp("stats") / "deep" / "stats.json"
    done = run_python("-c", WAYS, AUTOCACHE="dit_block:step_interval=2", AUTOCACHE_STATS=str(stats))
    return Facts(done, stats)


@pytest.mark.parametrize(
    "way",
    [
        "constructor",
        "from_config",
        "from_pretrained",
        "subclass",
        "pipeline",
        "loaded pipeline",
        "from_pipe",
        "own constructor in a pipeline",
    ],
)
def test_every_way_to_a_model_is_patched(facts: Facts, way: str) -> None:
    """Whoever constructs a class that has a spec gets it patched."""
    assert facts.seen["patched"][way]


def test_what_has_no_spec_or_is_half_built_stays_plain(facts: Facts) -> None:
    """A VAE is no denoiser; a subclass with its own constructor waits for its pipeline."""
    assert not facts.seen["patched"]["vae"]
    assert not facts.seen["patched"]["own constructor"]


def test_pipelines_share_a_patched_model_of_unchanged_class(facts: Facts) -> None:
    """from_pipe compares exact classes, so the root keeps its own."""
    assert facts.seen["same"]
    assert facts.seen["type"] == "DiTTransformer2DModel"


def test_one_line_tells_strategy_model_blocks_and_spec(facts: Facts) -> None:
    """Each patched model is announced once, with what a reader needs to trust it."""
    flux = [row for row in facts.said if " on FluxTransformer2DModel" in row]
    assert flux[0].startswith("autocache: dit_block(step_interval=2")
    assert flux[0].endswith(
        " on FluxTransformer2DModel, 2+3 blocks, spec FluxTransformer2DModel.yaml"
    )
    assert len(flux) == 3
    assert sum(" on Bare, 2+3 blocks" in row for row in facts.said) == 1
    assert sum(" on DiTTransformer2DModel, 3 blocks" in row for row in facts.said) == 3
    assert sum(" on Own, 3 blocks" in row for row in facts.said) == 1


def test_a_denoiser_without_spec_is_named_once(facts: Facts) -> None:
    """Two pipelines with the same unknown class give one warning that says what to do."""
    rows = [row for row in facts.said if "Foreign" in row]
    assert len(rows) == 1
    assert "no model spec for Foreign ('transformer' of the pipeline)" in rows[0]
    assert "AUTOCACHE_SPECS" in rows[0]


def test_typos_raise_from_the_constructor(facts: Facts) -> None:
    """A misspelt name never runs as the baseline; the message has the nearest one."""
    errors = facts.seen["errors"]
    assert errors["dit_blok"].startswith("UnknownStrategyError: ")
    assert "did you mean 'dit_block'" in errors["dit_blok"]
    assert errors["dit_block:step_intervall=2"].startswith("ParameterError: ")
    assert "did you mean 'step_interval'" in errors["dit_block:step_intervall=2"]
    assert errors["dit_block:step_interval=no"].startswith("ParameterError: ")


def test_the_variable_is_read_for_every_model(facts: Facts) -> None:
    """A program may switch off, or to another setting, between two models."""
    assert facts.seen["errors"]["off"] == "plain"
    assert facts.seen["errors"]["dit_block:step_interval=3"] == "patched"


def test_statistics_are_written_at_exit(facts: Facts) -> None:
    """AUTOCACHE_STATS gets one entry per patched model, in a folder made for it."""
    assert len(facts.stats) == len([row for row in facts.said if " on " in row])
    ran = [entry for entry in facts.stats if entry["passes"]]
    assert [(entry["model"], entry["generations"], entry["passes"]) for entry in ran] == [
        ("DiTTransformer2DModel", 1, 6)
    ]
    assert 0 < ran[0]["block_calls"]["run"] < ran[0]["block_calls"]["total"]


OWN_MODEL = """
from torch import nn

class MyBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden_states):
        return hidden_states + self.linear(hidden_states)

class MyTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(MyBlock() for _ in range(4))

    def forward(self, hidden_states, timestep):
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states
"""

OWN_LOOP = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from my_models import MyTransformer
model, x = MyTransformer(), torch.ones(1, 2, 4)
for step in range(10):
    x = x - 0.1 * model(x, timestep=torch.tensor([1000.0 - 100 * step]))
print("diffusers" in sys.modules)
"""

OWN_SPEC = """
schema: 1
model: my_models:MyTransformer
stacks:
  - path: blocks
    block: MyBlock
    streams: [hidden_states]
    returns: hidden_states
"""


def test_a_spec_of_ones_own_is_enough(run_python: Run, tmp_path: Path) -> None:
    """A plain torch model and loop: AUTOCACHE_SPECS names the spec, and blocks are skipped."""
    (tmp_path / "my_models.py").write_text(OWN_MODEL)
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "MyTransformer.yaml").write_text(OWN_SPEC)
    done = run_python(
        "-c",
        OWN_LOOP,
        tmp_path,
        AUTOCACHE="dit_block:step_interval=2,step_start=1",
        AUTOCACHE_SPECS=str(tmp_path / "specs"),
        AUTOCACHE_STATS=str(tmp_path / "stats.json"),
    )
    assert " on MyTransformer, 4 blocks, spec MyTransformer.yaml" in done.stderr
    assert done.stdout.split() == ["False"]
    (entry,) = json.loads((tmp_path / "stats.json").read_text())
    assert entry["passes"] == 10
    assert entry["block_calls"]["run"] < entry["block_calls"]["total"] == 40


def test_statistics_may_be_a_table_at_the_end(run_python: Run, tmp_path: Path) -> None:
    """AUTOCACHE_STATS=- prints on standard error, leaves the output alone and writes no file."""
    (tmp_path / "my_models.py").write_text(OWN_MODEL)
    (tmp_path / "MyTransformer.yaml").write_text(OWN_SPEC)
    done = run_python(
        "-c",
        OWN_LOOP + "import os\nprint('last line', file=sys.stderr)\nprint(os.listdir())",
        tmp_path,
        AUTOCACHE="dit_block:step_interval=2,step_start=1",
        AUTOCACHE_SPECS=str(tmp_path),
        AUTOCACHE_STATS="-",
    )
    assert done.stdout.split() == ["False", "[]"]
    table = dict(re.split(" {2,}", row, maxsplit=1) for row in at_end(done.stderr).splitlines())
    assert table["strategy"] == "dit_block"
    assert table["generations"] == "1, 10 denoiser calls"
    ran = re.fullmatch(r"(\d+) of 40 \(\d+\.\d%\)", table["block calls run"])
    assert ran
    assert int(ran[1]) < 40
    assert "r" in table["last generation"]


def at_end(said: str) -> str:
    return said.partition("last line\n")[2]


UNDESCRIBED = (
    CONFIG
    + """
import json, os, warnings
warnings.simplefilter("ignore")
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin

class Foreign(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, sample_size=8, in_channels=4, out_channels=4):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, hidden_states, timestep, class_labels=None, return_dict=False):
        return Transformer2DModelOutput(torch.sin(hidden_states * self.weight))

def pipeline(transformer):
    made = DiTPipeline(transformer, AutoencoderKL(**VAE), DDIMScheduler())
    made.set_progress_bar_config(disable=True)
    return made

def passes(transformer, value):
    os.environ["AUTOCACHE"] = value
    pipe = pipeline(transformer)
    pipe([1], num_inference_steps=8, guidance_scale=1.0)
    found = autocache.stats(pipe)
    return [found.strategy, found.denoiser.run, found.denoiser.total]

import autocache
os.environ["AUTOCACHE"] = "adastep:threshold=1.0"
foreign = Foreign()
seen = {
    "adastep": passes(foreign, "adastep:threshold=1.0"),
    "fewer_steps": passes(Foreign(), "fewer_steps:steps=3"),
    "both": passes(Foreign(), "adastep:threshold=1.0 + fewer_steps:steps=5"),
    "file": passes(Foreign(), "both.yaml"),
}
os.environ["AUTOCACHE"] = "fbcache:threshold=1e+3+invariant"
described = pipeline(DiTTransformer2DModel(**DIT))
plain = pipeline(Foreign())
seen["described"] = str(autocache.stats(described).strategy)
seen["plain"] = autocache.is_patched(plain)
os.environ["AUTOCACHE"] = "fbcache+dit_block"
try:
    DiTTransformer2DModel(**DIT)
except Exception as error:
    seen["refused"] = f"{type(error).__name__}: {error}"
os.environ["AUTOCACHE"] = "adastp"
try:
    pipeline(Foreign())
except Exception as error:
    seen["typo"] = f"{type(error).__name__}: {error}"
print(json.dumps(seen))
"""
)

BOTH = """
strategy:
  - strategy: adastep
    parameters: {threshold: 1.0}
  - fewer_steps
"""


def test_several_strategies_and_those_that_need_no_spec(run_python: Run, tmp_path: Path) -> None:
    """Undescribed denoisers are patched with their pipeline; strategies are joined by a plus."""
    (tmp_path / "both.yaml").write_text(BOTH)
    script = UNDESCRIBED.replace('"both.yaml"', repr(str(tmp_path / "both.yaml")))
    done = run_python("-c", script, AUTOCACHE="adastep:threshold=1.0")
    seen = json.loads(done.stdout.splitlines()[-1])
    name, ran, total = seen["adastep"]
    assert (name, total) == ("adastep", 8)
    assert ran < 8
    assert seen["fewer_steps"] == ["fewer_steps", 3, 3]
    assert seen["both"][0] == seen["file"][0] == "adastep+fewer_steps"
    assert (seen["both"][2], seen["file"][2]) == (5, 4)
    assert seen["described"] == "fbcache+invariant"
    assert not seen["plain"]
    assert "fbcache and dit_block cannot be combined" in seen["refused"]
    assert "did you mean 'adastep'" in seen["typo"]
    rows = [row for row in done.stderr.splitlines() if row.startswith("autocache: ")]
    assert "autocache: adastep(threshold=1.0) on Foreign" in rows
    assert sum("no model spec for Foreign" in row for row in rows) == 1
