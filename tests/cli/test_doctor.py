"""`autocache doctor`: what keeps a model from being accelerated is found, and said."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import diffusers
import pytest
import torch

from autocache import demo, device
from autocache.cli import hook
from autocache.cli.checks import machine, model, packages
from autocache.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
FLUX = "diffusers.models.transformers.transformer_flux:FluxTransformer2DModel"


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """No variable is set but what a test sets."""
    for name in list(os.environ):
        if name.startswith("AUTOCACHE"):
            monkeypatch.delenv(name)


@pytest.fixture
def found(capsys):
    """The exit status, and what is found by kind."""

    def found(*arguments: str) -> tuple[int, dict]:
        status = main(["doctor", "--json", *arguments])
        return status, json.loads(capsys.readouterr().out)

    return found


def _problems(told: dict) -> dict[str, str]:
    every = [one for findings in told["findings"].values() for one in findings]
    problems = [one for one in every if one["level"] == "problem"]
    assert len(problems) == told["problems"]
    return {one["subject"]: " ".join([one["text"], one["remedy"]]) for one in problems}


def test_a_fit_environment_is_status_0():
    """This one, asked as a user does: versions, device, activation, and the model's spec."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AUTOCACHE")}
    command = [sys.executable, "-m", "autocache", "doctor", "--model", demo.path("shapes")]
    done = subprocess.run(command, capture_output=True, text=True, env=kept, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        f"torch: {importlib.metadata.version('torch')}",
        f"diffusers: {importlib.metadata.version('diffusers')}",
        "autocache.pth is live",
        f"{FLUX}: spec ",
        "FluxTransformer2DModel.yaml, proven on diffusers ",
    ):
        assert words in done.stdout
    assert "problem" not in done.stdout
    assert done.stderr.endswith("0 problems\n")


def test_a_machine_may_read_it(found):
    """The same findings, with the versions and the variables."""
    status, told = found()
    assert status == 0
    assert told["versions"]["torch"] == importlib.metadata.version("torch")
    assert told["versions"]["xformers"] is None
    assert told["variables"] == {}
    assert list(told["findings"]) == ["packages", "device", "activation"]
    assert _problems(told) == {}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AUTOCACHE", "teacach", "did you mean 'teacache'?"),
        ("AUTOCACHE", "teacache:treshold=1", "did you mean 'threshold'?"),
        ("AUTOCACHE", "teacache+fora:interval=0", "interval"),
        ("AUTOCACHE", "nowhere.yaml", "nowhere.yaml"),
        ("AUTOCACHE_STAT", "s.json", "did you mean 'AUTOCACHE_STATS'?"),
        ("AUTOCACHE_STATS", "/dev/null/s.json", "cannot write"),
        ("AUTOCACHE_LOG", "degub", "did you mean 'debug'?"),
    ],
)
def test_a_wrong_variable_is_found(found, monkeypatch, name, value, said):
    """Status 1, with the nearest right one."""
    monkeypatch.setenv(name, value)
    status, told = found()
    assert status == 1
    problems = _problems(told)
    assert list(problems) == [name]
    assert said in problems[name]


def test_a_variable_that_undoes_another_is_found(found, monkeypatch):
    """AUTOCACHE beside AUTOCACHE_DISABLE does nothing."""
    monkeypatch.setenv("AUTOCACHE", "fora")
    monkeypatch.setenv("AUTOCACHE_DISABLE", "1")
    status, told = found()
    assert status == 1
    assert list(_problems(told)) == ["AUTOCACHE_DISABLE"]


def test_wrong_variables_do_not_spoil_the_check_of_a_model(found, monkeypatch):
    """What it builds to look at the spec is none of AUTOCACHE's."""
    monkeypatch.setenv("AUTOCACHE", "teacache:treshold=1")
    assert list(_problems(found("--model", "FluxTransformer2DModel")[1])) == ["AUTOCACHE"]
    assert os.environ["AUTOCACHE"] == "teacache:treshold=1"


def test_specs_of_ones_own_are_read(found, monkeypatch, tmp_path):
    """A malformed one is a problem, and so is a folder that is not there."""
    (tmp_path / "Mine.yaml").write_text("schema: 1\nmodel: mine:Mine\nstaks: []\n")
    monkeypatch.setenv("AUTOCACHE_SPECS", str(tmp_path))
    status, told = found()
    assert status == 1
    assert "staks" in _problems(told)["Mine"]
    monkeypatch.setenv("AUTOCACHE_SPECS", str(tmp_path / "nowhere"))
    assert "not a directory" in _problems(found()[1])["specs"]


def test_an_interpreter_without_the_hook_is_told(tmp_path):
    """A fresh environment, with autocache on its path and no .pth file: the variable does nothing
    there, and the doctor says what does."""
    venv.create(tmp_path / "env", symlinks=True)
    site = tmp_path / "site"
    site.mkdir()
    for package in Path(torch.__file__).parents[1].iterdir():
        if not package.name.endswith((".pth", ".start")) and "autocache" not in package.name:
            (site / package.name).symlink_to(package)
    (site / "autocache").symlink_to(ROOT / "autocache")
    done = subprocess.run(
        [tmp_path / "env" / "bin" / "python", "-m", "autocache", "doctor", "--json"],
        env={"PYTHONPATH": str(site), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert "autocache run" in _problems(told)["activation"]


def test_the_hook_is_asked_and_not_assumed():
    """Whatever the variable says here."""
    hook.live.cache_clear()
    assert hook.live()


def test_every_denoiser_of_a_pipeline_is_looked_up(tmp_path):
    """Two experts are two findings; what is no denoiser is none."""
    folder = ROOT / "examples" / "models" / "shapes_wan"
    listed = json.loads((folder / "model_index.json").read_text())
    described = {name for name, value in listed.items() if "Transformer3D" in str(value)}
    findings = list(model.findings(str(folder)))
    assert len(findings) == len(described) > 0
    assert {one.level for one in findings} == {"ok"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("FluxTransformer2DModl", "did you mean 'FluxTransformer2DModel'?"),
        ("AutoencoderKL", "no spec describes it; `autocache specs draft AutoencoderKL`"),
        ("no/such/folder", "is no directory"),
    ],
)
def test_a_model_without_a_spec_is_found(given, said):
    """With what to do."""
    (finding,) = model.findings(given)
    assert finding.level == "problem"
    assert said in str(finding)


def test_a_class_that_another_library_changed_is_found(monkeypatch):
    """As the forks of TeaCache do, by a forward of theirs."""

    def forward(self, *args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(diffusers.FluxTransformer2DModel, "forward", forward)
    problems = [one for one in model.findings("FluxTransformer2DModel") if one.level == "problem"]
    assert any(f"its forward is that of {__file__}" in one.text for one in problems)


def test_versions_are_compared(monkeypatch):
    """What is too old, missing, or another cache, by what the package itself requires."""
    installed = dict(packages.versions())
    fake = {"diffusers": "0.20.0", "safetensors": None, "torch": "2.14.0a0+git1", "para-attn": "1"}
    monkeypatch.setattr(packages, "_version", lambda name: (installed | fake).get(name))
    said = {one.subject: one for one in packages.findings() if one.level != "ok"}
    assert "0.20.0 does not satisfy >=" in said["diffusers"].text
    assert said["diffusers"].remedy.startswith("pip install -U 'diffusers>=")
    assert said["safetensors"].text == "is not installed"
    assert "torch" not in said
    assert said["para-attn"].level == "note"


def test_a_package_that_breaks_diffusers_is_found(tmp_path):
    """xformers built for another torch fails as diffusers imports it; the others are still told."""
    (tmp_path / "xformers").mkdir()
    (tmp_path / "xformers" / "__init__.py").write_text("raise OSError('built for torch 1.0')")
    info = tmp_path / "xformers-0.0.35.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: xformers\nVersion: 0.0.35\n")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AUTOCACHE")}
    done = subprocess.run(
        [sys.executable, "-m", "autocache", "doctor", "--json"],
        env=kept | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout)
    assert told["versions"]["xformers"] == "0.0.35"
    assert done.returncode == 1
    assert any("built for torch 1.0" in text for text in _problems(told).values())
    assert told["findings"]["activation"]


def test_the_device_is_the_one_there_is():
    """As torch has it."""
    told = machine.describe()
    assert told["type"] == device.default()
    assert told["count"] >= 1
