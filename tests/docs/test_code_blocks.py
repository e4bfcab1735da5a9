"""Every code block of README and docs is run, or a test that runs it is named.

Python blocks share a namespace on each page. Blocks without a language, and those in bash, are run
by bash in a folder with the files they speak of; of a console block the output is compared too.
YAML and TOML are read by what reads them. Blocks marked as text are output.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tomllib
import torch
import yaml
from docs.blocks import BLOCKS, ELSEWHERE, PAGES, RUN, SCRIPT, Block, of

import autocache
from autocache.authoring.notation import value
from autocache.spec.layers import ENTRY_POINTS
from autocache.spec.loader import loads
from autocache.tuning.profile import Profile
from scripts import ROOT

BUNDLED = {
    "shapes": diffusers.FluxPipeline,
    "shapes_sd": diffusers.StableDiffusionPipeline,
    "shapes_wan": diffusers.WanPipeline,
}
# The same work, on a model that is here and in fewer steps.
SMALLER = {
    "MODEL": autocache.demo.path("shapes"),
    "./my-model": autocache.demo.path("shapes"),
    "--steps 28": "--steps 6",
    "--speedup 3": "--speedup 3 --batch 2 --budget 25",
    "--prompts prompts.txt": "--prompts prompts.txt --call height=64 --call width=64"
    " --call max_sequence_length=24",
    '"num_inference_steps": 28, "height": 1024, "width": 1024': '"num_inference_steps": 6',
    '"num_inference_steps": 28': '"num_inference_steps": 6',
}
SECONDS = re.compile(r" *\d+\.\d s")
"""With the spaces before it, which align it: on a busy machine it has a digit more."""


def smaller(text: str) -> str:
    """The block with its work made small."""
    for said, run in SMALLER.items():
        text = text.replace(said, run)
    return text


class Small(diffusers.FluxPipeline):
    """The bundled pipeline by any name, drawing small pictures in few steps if not told."""

    def __call__(self, *args: Any, **given: Any) -> Any:
        small = {"num_inference_steps": 6, "height": 64, "width": 64, "max_sequence_length": 24}
        return super().__call__(*args, **{**small, **given})

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> Any:
        pipe = diffusers.FluxPipeline.from_pretrained(autocache.demo.path("shapes"))
        pipe.set_progress_bar_config(disable=True)
        return cls(**pipe.components)


class Halved(torch.nn.Module):
    """A denoiser for a loop of one's own."""

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return sample / 2


# Specs name pipelines by their class.
Small.__name__ = Small.__qualname__ = "FluxPipeline"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages speak of, in which the blocks are run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specs").mkdir()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "infer.py").write_text(SCRIPT)
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    (tmp_path / "fast.yaml").write_text("strategy: teacache\nparameters: {threshold: 0.1}\n")
    (spec,) = (b for b in BLOCKS if b.language == "yaml" and "Lumina2" in b.text)
    (tmp_path / "specs" / "Lumina2Transformer2DModel.yaml").write_text(spec.text)
    return tmp_path


def lora(folder: Path) -> None:
    """An adapter to load."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = Small.from_pretrained()
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    weights = get_peft_model_state_dict(pipe.transformer)
    pipe.save_lora_weights(folder, transformer_lora_layers=weights, weight_name="ink.safetensors")


def known(page: str, folder: Path) -> dict[str, Any]:
    """The names that a page takes as given."""
    names: dict[str, Any] = {"autocache": autocache, "torch": torch, "prompt": "a red circle"}
    if page.startswith("strategies/"):
        return names | {"pipe": suited(Path(page).stem)}
    if page == "serving.md":
        times = [torch.tensor([time]) for time in (900.0, 600.0, 300.0)]
        names |= {"model": Halved(), "latents": torch.ones(1, 4, 8, 8), "timesteps": times}
        autocache.patch(names["model"], speedup=2)
    if page == "adapters.md":
        lora(folder)
    return names | {"pipe": Small.from_pretrained(), "FluxPipeline": Small, "prompts": ["a", "b"]}


def suited(strategy: str) -> Any:
    """A bundled pipeline that a strategy applies to."""
    for name, cls in BUNDLED.items():
        pipe = cls.from_pretrained(autocache.demo.path(name))
        if strategy in PUBLISHED:
            pipe.transformer.register_to_config(_name_or_path=PUBLISHED[strategy])
        try:
            # Of `schedule` what is needed is on its page.
            needed = {"steps": [0, 2], "total": 4} if strategy == "schedule" else {}
            autocache.patch(pipe, strategy, **needed).unpatch()
        except autocache.errors.DoesNotApplyError:
            continue
        return pipe
    raise AssertionError(f"{strategy} applies to no bundled pipeline")


# What is refused without figures of the checkpoint is shown on one that has them.
PUBLISHED = {"magcache": "black-forest-labs/FLUX.1-dev"}


@pytest.mark.parametrize("page", sorted({block.page for block in of("python")}))
def test_python(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block after the other, as a reader would enter them."""
    names = known(page, folder)
    for block in of("python"):
        if block.page == page:
            # The line of the page is that of the traceback.
            lines = "\n" * (block.line - 1) + smaller(block.text)
            exec(compile(lines, str(block.page), "exec"), names)
    pipe = names.get("pipe")
    if isinstance(pipe, diffusers.DiffusionPipeline):
        autocache.unpatch(pipe)


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What bash makes of it, with this Python's commands before any others."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {key: v for key, v in os.environ.items() if not key.startswith("AUTOCACHE")}
    for written in re.findall(r" -o (\S+)", command):
        (folder / written).unlink(missing_ok=True)  # what it makes is not there before
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", smaller(command)],
        cwd=folder,
        env={**kept, **quiet, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("block", of("", "bash"), ids=str)
def test_bash(block: Block, folder: Path) -> None:
    """Every command ends well, and what the variable is to do is done."""
    done = shell(block.text, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    for asked in re.findall(r"\bAUTOCACHE=(\S+)", block.text):
        # A line per model names the strategy, and the profile where it comes from one.
        name = asked if asked.endswith(".yaml") else re.split("[:+]", asked)[0]
        assert re.search(rf"autocache: .*\b{re.escape(name)}\b", done.stderr), done.stderr


@pytest.mark.parametrize("block", of("console"), ids=str)
def test_console(block: Block, folder: Path) -> None:
    """The command says each line that stands below it, whatever libraries say besides."""
    lines = block.text.splitlines()
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    shown = "\n".join(line for line in lines if not line.startswith("$ "))
    done = shell("\n".join(commands), folder)
    assert shown or done.returncode == 0, done.stdout + done.stderr
    said = re.sub(SECONDS, " 0.0 s", done.stdout + done.stderr).splitlines()
    for line in re.sub(SECONDS, " 0.0 s", shown).splitlines():
        assert line == "..." or line in said, done.stdout + done.stderr


@pytest.mark.parametrize("block", of("yaml", "yml"), ids=str)
def test_yaml(block: Block) -> None:
    """A spec, a profile, inputs of a forward, or a part of a spec that is on the page too."""
    found = yaml.safe_load(block.text)
    if "strategy" in found:
        assert Profile.parse(block.text).created()
    elif "stacks" in found:
        name = found["model"].rpartition(":")[2]
        assert loads(block.text, f"{name}.yaml").model == found["model"]
    elif all(isinstance(item, dict) for item in found.values()):
        made = value(found, key="inputs")
        assert all(list(made[key].shape) == found[key]["shape"] for key in found)
    else:
        others = [b.text for b in of("yaml") if b.page == block.page and b is not block]
        assert any(found.items() <= yaml.safe_load(text).items() for text in others)


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_toml(block: Block) -> None:
    """An entry point of the group that is looked for."""
    (group,) = tomllib.loads(block.text)["project"]["entry-points"]
    assert group == ENTRY_POINTS


@pytest.mark.parametrize("block", of("text"), ids=str)
def test_text_is_output(block: Block) -> None:
    """Nothing that could have been run is marked so."""
    assert not re.search(
        r"^(\$ |python |autocache |AUTOCACHE\w*=|import )", block.text, re.MULTILINE
    )


def test_no_block_goes_without_a_check() -> None:
    """Each is in a language that is run above."""
    languages = {"python", "", "bash", "console", "yaml", "toml", "text"}
    assert {str(b) for b in RUN if b.language not in languages} == set()
    fences = sum(len(re.findall(r"^ *```", page.read_text(), re.MULTILINE)) for page in PAGES)
    assert fences == 2 * len(BLOCKS)


@pytest.mark.parametrize(("key", "test"), ELSEWHERE.items(), ids=lambda item: str(item))
def test_what_is_run_elsewhere_is_run_there(key: tuple[str, str], test: str) -> None:
    """The block is still on its page, and the test is still there."""
    assert [b for b in BLOCKS if (b.page, b.text[: len(key[1])]) == key]
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
