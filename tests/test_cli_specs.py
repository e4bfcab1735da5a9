"""The command line lists, shows, drafts, validates and verifies specs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import autocache
from autocache.authoring.json_schema import schema
from autocache.cli.main import main

DIT = "diffusers.models.transformers.dit_transformer_2d:DiTTransformer2DModel"
TEXT = """\
schema: 1
model: not_installed.models:Mine
stacks:
  - {path: blocks, block: Block, streams: [x], returns: x, attention: {attn: self}}
guidance: {MyPipeline: {style: sequential, branches: [cond, uncond]}}
probes: {temb: {argument: temb}}
teacache:
  - {id: mine, checkpoints: [me/mine], probe: temb, coefficients: [1.0], steps: 30,
     scheduler: EulerDiscreteScheduler, provenance: community, fitted_on: me/other, source: here}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spec of one's own, in a directory of AUTOCACHE_SPECS."""
    file = tmp_path / "specs" / "Mine.yaml"
    file.parent.mkdir()
    file.write_text(TEXT)
    monkeypatch.setenv("AUTOCACHE_SPECS", str(file.parent))
    return file


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> object:
    assert main(["specs", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_specs_are_listed(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    """One line each: name, what it was proven on, layer, class and file."""
    assert main(["specs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [info.name for info in autocache.specs()]
    (mine,) = (line for line in lines if line.startswith("Mine "))
    assert mine.split("  ")[-1].endswith(str(own))
    for word in ("not proven", "AUTOCACHE_SPECS", "not_installed.models:Mine"):
        assert word in mine
    listed = {entry["name"]: entry for entry in _json(capsys, "list", "--json")}
    assert listed["Mine"]["proven_on"] is None
    bundled = listed["DiTTransformer2DModel"]
    assert (bundled["model"], bundled["layer"]) == (DIT, "bundled")
    assert bundled["proven_on"].startswith("diffusers ")


def test_a_malformed_spec_does_not_hide_the_others(
    capsys: pytest.CaptureFixture[str], own: Path
) -> None:
    """It is in the list, and its problems are in the JSON."""
    own.write_text(TEXT.replace("path", "pth"))
    assert main(["specs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(autocache.specs())
    assert sum("malformed" in line for line in lines) == 1
    listed = {entry["name"]: entry for entry in _json(capsys, "list", "--json")}
    assert listed["Mine"]["problems"][0].startswith(f"{own}:4:5: ")
    assert not listed["DiTTransformer2DModel"]["problems"]


def test_a_spec_is_shown(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    """Stacks, streams, attention, guidance, tables and where they come from; by name or file."""
    assert main(["specs", "show", "Mine"]) == 0
    said = capsys.readouterr().out
    for words in (
        f"{own} (AUTOCACHE_SPECS)",
        "proven on  nothing",
        "blocks  Block; streams x; returns x; attention attn (self)",
        "temb  argument temb",
        "MyPipeline  sequential (cond, uncond)",
        "mine  me/mine; 30 steps; EulerDiscreteScheduler; borrowed, fitted on me/other; source",
    ):
        assert words in said
    shown = _json(capsys, "show", str(own), "--json")
    assert isinstance(shown, dict)
    assert (shown["name"], shown["file"], shown["layer"]) == ("Mine", str(own), "AUTOCACHE_SPECS")
    assert shown["stacks"][0]["attention"] == {"attn": "self"}


@pytest.mark.parametrize("info", autocache.specs(), ids=lambda info: info.name)
def test_every_bundled_spec_can_be_shown(capsys: pytest.CaptureFixture[str], info) -> None:
    """Whatever facts it has, for a person and for a program."""
    assert main(["specs", "show", info.model]) == 0
    assert capsys.readouterr().out.startswith(f"{info.model}\n  file")
    assert isinstance(_json(capsys, "show", info.model, "--json"), dict)


def test_an_unknown_spec_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """With the nearest name, and exit status 2."""
    for arguments in (["show", "DiTTransformer2DModl"], ["verify", "DiTTransformer2DModl"]):
        assert main(["specs", *arguments]) == 2
        assert "did you mean 'DiTTransformer2DModel'?" in capsys.readouterr().err


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """As it is published beside the specs."""
    assert _json(capsys, "schema") == schema()


def test_valid_files_pass(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    """Exit status 0, and a note on what could not be looked up."""
    assert main(["specs", "validate", str(own.parent)]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"{own}: note: not_installed is not installed")
    assert told.err == "1 file, 0 problems\n"


def test_every_problem_is_printed_and_the_status_is_1(
    capsys: pytest.CaptureFixture[str], own: Path, tmp_path: Path
) -> None:
    """One line `file:line:column: message` for each, all files at once."""
    own.write_text(TEXT.replace("path", "pth").replace("style", "stile"))
    other = tmp_path / "Other.yaml"
    other.write_text("schema: [\n")
    assert main(["specs", "validate", str(own), str(other)]) == 1
    told = capsys.readouterr()
    files = [line.partition(".yaml:")[0] for line in told.out.splitlines()]
    assert files.count(str(own.with_suffix(""))) == 4
    assert files.count(str(other.with_suffix(""))) == 1
    assert told.err == "2 files, 5 problems\n"


def test_an_empty_directory_is_not_valid(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nothing was checked, which does not pass for nothing wrong."""
    assert main(["specs", "validate", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "0 files, 0 problems\n"


def test_a_class_is_drafted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Printed, or written to a new file that is a valid spec and proves right."""
    assert main(["specs", "draft", DIT]) == 0
    printed = capsys.readouterr().out
    assert "path: transformer_blocks" in printed
    file = tmp_path / "DiTTransformer2DModel.yaml"
    assert main(["specs", "draft", "DiTTransformer2DModel", "-o", str(file)]) == 0
    told = capsys.readouterr()
    assert (file.read_text(), told.out) == (printed, "")
    assert told.err == f"{file}: {printed.count('# QUESTION:')} questions to answer\n"
    assert main(["specs", "validate", str(file)]) == 0
    assert main(["specs", "verify", str(file)]) == 0
    assert main(["specs", "draft", DIT, "-o", str(file)]) == 2
    assert f"{file} exists" in capsys.readouterr().err


def test_a_draft_takes_a_config_and_inputs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """From YAML files; what is wrong with them is an error with its place."""
    config, inputs = tmp_path / "config.yaml", tmp_path / "inputs.yaml"
    config.write_text("{num_layers: 3, num_attention_heads: 2, attention_head_dim: 8}")
    inputs.write_text(
        "hidden_states: {shape: [1, 4, 8, 8]}\ntimestep: {shape: [1], value: 7, dtype: int64}\n"
        "class_labels: {shape: [1], value: 1, dtype: int64}\n"
    )
    given = ["--config", str(config), "--inputs", str(inputs)]
    assert main(["specs", "draft", "DiTTransformer2DModel", *given]) == 0
    said = capsys.readouterr().out
    assert "attention_head_dim: 8" in said
    assert "value: 7" in said
    for text, expected in (("[1]", "expected a mapping"), ("a: 1\na: 2", ":2:1: key 'a' is given")):
        config.write_text(text)
        assert main(["specs", "draft", "DiTTransformer2DModel", *given]) == 2
        assert expected in capsys.readouterr().err


def test_a_class_that_does_not_exist_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """With the nearest name, and nothing is written."""
    assert main(["specs", "draft", "DiTTransformer2DModl"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "did you mean 'DiTTransformer2DModel'?" in told.err


def test_a_spec_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    """A table on standard output; the same as JSON."""
    assert main(["specs", "verify", "DiTTransformer2DModel", "--no-pipelines"]) == 0
    told = capsys.readouterr()
    assert told.out.split()[:2] == ["DiTTransformer2DModel", "proven"]
    assert told.err == "1 spec, 0 failed\n"
    (report,) = _json(capsys, "verify", DIT, "--no-pipelines", "--json")
    assert report["proven"] is True
    assert {check["name"] for check in report["checks"]} >= {"never skips", "ranges", "streams"}


def test_a_spec_that_fails_gives_status_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What failed is under the spec's line."""
    (known,) = (info for info in autocache.specs() if info.model == DIT)
    file = tmp_path / known.file.name
    file.write_text(known.file.read_text().replace("feed_forward: [ff]", "feed_forward: [fff]"))
    assert main(["specs", "verify", str(file), "--no-pipelines"]) == 1
    told = capsys.readouterr()
    assert "FAILED" in told.out
    assert "has no submodule 'fff'; did you mean 'ff'?" in told.out


@pytest.mark.parametrize("arguments", [[], ["--all", "DiTTransformer2DModel"]])
def test_verify_wants_names_or_all(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """A long run is not begun by accident, nor a name ignored."""
    assert main(["specs", "verify", *arguments]) == 2
    assert "give either names of specs or --all" in capsys.readouterr().err


def test_listing_needs_no_diffusers() -> None:
    """What only reads files is quick."""
    code = (
        "import sys; from autocache.cli.main import main; main(['specs', 'list', '--json']);"
        "print('diffusers' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split()[-1] == "False"
