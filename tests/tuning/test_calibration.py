"""The tables of a calibration go into specs and patches, and from there into runs."""

from __future__ import annotations

import logging
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
import yaml
from diffusers import FluxPipeline
from pipelines.tiny_pipelines import _arguments, flux, make

import autocache
from autocache import demo
from autocache.cli.main import main
from autocache.demo.prompts import held_out
from autocache.errors import CalibrationError, DoesNotApplyError, ParameterError, SpecError
from autocache.spec import registry
from autocache.spec.loader import load
from autocache.spec.tables import matches
from autocache.tuning.calibration import Calibration, identity
from autocache.tuning.calibration_file import inserted
from autocache.tuning.recording import Series

CALL = {"height": 32, "width": 32, "max_sequence_length": 24, "num_inference_steps": 10}
SPEC = "FluxTransformer2DModel.yaml"
NOTHING: Any = None


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = FluxPipeline.from_pretrained(demo.path())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def made(pipe) -> Calibration:
    return autocache.calibrate(pipe, held_out(3), call=CALL, force=True)


def actions(pipe: Any, **options: Any) -> list[str]:
    """What is done in each step of a run."""
    with autocache.patched(pipe, **options) as patch:
        pipe(prompt=held_out(1)[0], output_type="latent", **CALL)
        return [step.action for step in patch.stats().steps]


def test_a_copy_of_the_spec_gets_the_tables(made, tmp_path):
    """First of their lists; every line of the bundled spec is still there, in its order."""
    (file,) = made.write(tmp_path / "specs")
    assert file == tmp_path / "specs" / SPEC
    bundled = registry.find(FluxPipeline.from_pretrained(demo.path()).transformer)
    assert bundled is not None
    assert bundled.file is not None
    spec, before = load(file), bundled.file.read_text().splitlines()
    assert (spec.teacache[0], spec.magcache[0]) == made.tables
    assert (spec.teacache[1:], spec.magcache[1:]) == (bundled.teacache, bundled.magcache)
    lines = iter(file.read_text().splitlines())
    assert all(line in lines for line in before)


def test_writing_again_replaces_the_table(made, tmp_path):
    """Of the same id, and nothing else: the file is the same as after the first time."""
    (file,) = made.write(tmp_path)
    once = file.read_text()
    assert made.write(file) == [file]
    assert file.read_text() == once


def test_the_spec_is_used(made, pipe, tmp_path, monkeypatch):
    """By its directory in AUTOCACHE_SPECS, by spec=, and as parameters: the same steps skip."""
    (file,) = made.write(tmp_path)
    for strategy in ("teacache", "magcache"):
        given = made.parameters(strategy)
        expected = actions(pipe, strategy=strategy, **given)
        assert "reused" in expected
        assert actions(pipe, strategy=strategy, spec=file) == expected
    monkeypatch.setenv("AUTOCACHE_SPECS", str(tmp_path))
    assert actions(pipe, strategy="magcache") == expected


def test_the_table_says_what_it_is_worth(made):
    """Figures, range and run are in the YAML, which a spec can hold."""
    text = made.to_yaml()
    table = yaml.safe_load(text)["teacache"][0]
    assert table["id"] == "shapes-calibrated"
    assert table["checkpoints"] == ["shapes"]
    assert table["steps"] == CALL["num_inference_steps"]
    assert table["scheduler"] == "FlowMatchEulerDiscreteScheduler"
    assert table["provenance"] == "calibrated"
    assert table["r2"] == pytest.approx(made.made[0].fit.held_out_r2, abs=1e-3)
    assert "rank correlation" in text
    assert all(word in made.report for word in ("teacache", "magcache", "R²", "spread"))


def test_a_patch_is_off_meanwhile(pipe, made):
    """It would be measured instead of the model; afterwards it is on again."""
    with autocache.patched(pipe, "dit_block", step_interval=2) as patch:
        again = autocache.calibrate(pipe, held_out(3), call=CALL, force=True)
        assert autocache.is_patched(pipe)
        assert not patch.stats().steps
    assert again.tables == made.tables


def test_far_from_the_fitted_range_is_told_once(made, pipe, caplog, tmp_path):
    """What a polynomial says there means nothing; within the range nothing is said."""
    (file,) = made.write(tmp_path)
    with caplog.at_level(logging.WARNING, "autocache"):
        actions(pipe, strategy="teacache", spec=file)
        assert "fitted to changes" not in caplog.text
        spec = load(file)
        low = made.tables[0].valid_for[0]
        narrow = spec.teacache[0].model_copy(update={"valid_for": [low / 3, low / 2]})
        actions(pipe, strategy="teacache", spec=spec.model_copy(update={"teacache": [narrow]}))
    assert caplog.text.count("fitted to changes") == 1


def test_a_batch_is_measured_as_one(pipe):
    """As teacache measures it: one series of changes for all prompts of a call."""
    told: list[int] = []
    options: dict[str, Any] = {"strategy": "teacache", "order": 2, "force": True}
    made = autocache.calibrate(pipe, held_out(3), call=CALL, batch=2, tell=told.append, **options)
    fit = made.made[0].fit
    assert (fit.pairs, fit.inputs) == (2 * (CALL["num_inference_steps"] - 1), 2)
    assert told == [2, 3]


def test_one_of_two_may_be_refused(pipe, caplog):
    """The other is made, and the reason is kept and logged."""
    made = autocache.calibrate(pipe, held_out(1), call=CALL)
    assert [one.strategy for one in made.made] == ["magcache"]
    (reason,) = made.refused.values()
    assert "two inputs at least" in reason
    assert reason in caplog.text
    with pytest.raises(ParameterError, match="0 tables were made for 'teacache'"):
        made.parameters("teacache")
    with pytest.raises(CalibrationError, match="two inputs"):
        autocache.calibrate(pipe, held_out(1), strategy="teacache", call=CALL)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/cache/hub/models--owner--name/snapshots/0123/transformer", "owner/name"),
        ("owner/name", "owner/name"),
        ("models/mine/transformer", "mine"),
        ("./mine/transformer", "mine"),
        ("/data/mine", "mine"),
    ],
)
def test_the_checkpoint_is_told_by_where_it_came_from(path, name):
    """And a model that was loaded from there gets the table."""
    pipe = make("flux")
    pipe.transformer.register_to_config(_name_or_path=path)
    found = identity(pipe, [Series(NOTHING, pipe.transformer, 0, "cond", None)])
    assert found == {"checkpoints": [name]}
    assert matches({}, found["checkpoints"], dict(pipe.transformer.config))


def test_a_model_that_was_not_loaded_is_told_by_its_config(tmp_path):
    """One built alike gets the table, and another does not."""
    pipe = make("flux")
    inputs = [_arguments(pipe, 8, 1, False, seed) for seed in range(2)]
    made = autocache.calibrate(
        pipe, inputs, strategy="magcache", call={"num_inference_steps": 4}, force=True
    )
    (file,) = made.write(tmp_path)
    with autocache.patched(make("flux"), "magcache", spec=file) as patch:
        assert patch.spec.magcache[0] == made.tables[0]
    with pytest.raises(DoesNotApplyError, match=r"table= .*own-calibrated"):
        autocache.patch(flux(num_layers=2), "magcache", spec=file)


TABLE = {"id": "own", "ratios": {"all": [1.0, 0.9]}, "source": "here"}
HEAD = """\
schema: 1
model: some.module:Model
stacks:
  - {path: blocks, block: Block, streams: [x], returns: x}
"""


OWN = """\
  - id: own
    ratios: {all: [1.0, 0.9]}
    source: here
"""
OTHER = "- {id: other, ratios: {all: [1.0, 0.8]}, source: there}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"magcache:\n{OWN}"),
        ("magcache: []\n# end\n", f"magcache:\n{OWN}# end\n"),
        (f"magcache: # why\n{OTHER}", f"magcache: # why\n{indent(dedent(OWN), '')}{OTHER}"),
        (
            f"magcache:\n    # of another\n    {OTHER}# end\n",
            f"magcache:\n{indent(OWN, '  ')}    # of another\n    {OTHER}# end\n",
        ),
        (f"magcache:\n{OWN.replace('0.9', '0.7')}  # end\n", f"magcache:\n{OWN}  # end\n"),
        (
            f"magcache:\n  # of another\n  {OTHER}{OWN}presets: {{}}\n",
            f"magcache:\n{OWN}  # of another\n  {OTHER}presets: {{}}\n",
        ),
    ],
)
def test_lists_of_any_style_take_a_table(before, after):
    """Indentation and comments are as they were, and one of the same id makes place."""
    assert inserted(HEAD + before, Path("Model.yaml"), "magcache", TABLE) == HEAD + after


def test_a_list_between_brackets_is_refused():
    """It is said where, and what to do."""
    text = HEAD + "magcache: [{id: other, ratios: {all: [1.0, 0.8]}, source: there}]\n"
    with pytest.raises(SpecError, match=r"Model.yaml:5:1: .*lines of its own"):
        inserted(text, Path("Model.yaml"), "magcache", TABLE)


def command(*arguments: str) -> list[str]:
    call = [f"--call={key}={value}" for key, value in CALL.items()]
    prompts = [f"--prompt={prompt}" for prompt in held_out(3)]
    return ["calibrate", demo.path(), "--device", "cpu", *prompts, *call, *arguments]


def test_the_command_writes_what_the_function_makes(made, tmp_path, capsys):
    """The tables and the spec, with the figures on standard error."""
    table, spec = tmp_path / "table.yaml", tmp_path / SPEC
    assert main(command("--force", "-o", str(table), "--spec-out", str(spec))) == 0
    assert table.read_text() == made.to_yaml()
    assert load(spec).teacache[0] == made.tables[0]
    said = capsys.readouterr()
    assert made.report in said.err
    assert str(spec) in said.err
    assert said.out == ""


def test_the_command_refuses(capsys, tmp_path):
    """What cannot be reached is not written."""
    table = tmp_path / "table.yaml"
    arguments = ("--strategy", "teacache", "--order", "9", "--min-r2", "0.99", "-o", str(table))
    assert main(command(*arguments)) == 2
    assert "does not tell" in capsys.readouterr().err
    assert not table.exists()
