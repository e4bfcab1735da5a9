"""The pipeline, inputs and call arguments that a command line names."""

from __future__ import annotations

import argparse

import diffusers
import pytest

from autocache import demo
from autocache.cli.workload_options import add_workload, inputs, workload
from autocache.errors import ParameterError


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_workload(parser)
    return parser.parse_args(arguments)


def test_a_pipeline_is_loaded_and_called_as_told(recwarn):
    """The directory's own class, the steps and arguments of the command line, and its seed; no
    warning that is for us and not for the user."""
    options = parsed(
        *(demo.path(), "--prompt", "a red circle", "--prompt", "a blue square", "--steps", "2"),
        *("--call", "height=32", "--call", "width=32", "--call", "max_sequence_length=24"),
        *("--seed", "5", "--batch", "1", "--device", "cpu"),
    )
    made = workload(options)
    assert not [one for one in recwarn if "torch_dtype" in str(one.message)]
    assert isinstance(made.pipe, diffusers.FluxPipeline)
    calls = list(made.calls())
    assert [call["prompt"] for call in calls] == [["a red circle"], ["a blue square"]]
    assert [call["generator"][0].initial_seed() for call in calls] == [5, 6]
    assert calls[0]["num_inference_steps"] == 2
    assert [sample.shape for sample in made.run().samples] == [(32, 32, 3)] * 2


def test_another_pipeline_class_may_be_named():
    """For a directory whose components several pipelines share."""
    options = parsed(demo.path(), "--prompt", "a", "--pipeline", "FluxImg2ImgPipeline")
    assert isinstance(workload(options).pipe, diffusers.FluxImg2ImgPipeline)


def test_values_of_arguments_are_yaml():
    """Numbers, booleans, lists and text."""
    given = ("--call", "a=4.5", "--call", "b=true", "--call", "c=[1, 2]", "--call", "d=x=y")
    assert dict(parsed("model", *given).call) == {"a": 4.5, "b": True, "c": [1, 2], "d": "x=y"}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("p.txt", "one\n\n two \n", ["one", "two"]),
        (
            "p.yaml",
            "- one\n- {prompt: two, height: 64}\n",
            ["one", {"prompt": "two", "height": 64}],
        ),
        ("p.json", '[{"prompt": "one"}]', [{"prompt": "one"}]),
    ],
)
def test_prompts_are_read_from_a_file(tmp_path, name, text, expected):
    """Lines of a text, or a list of prompts and of mappings; those of the command line first."""
    (tmp_path / name).write_text(text)
    options = parsed("model", "--prompt", "zero", "--prompts", str(tmp_path / name))
    assert inputs(options) == ["zero", *expected]


@pytest.mark.parametrize(
    ("text", "said"), [("- [1\n", ":2: not valid"), ("a: 1", "a list"), ("- 3", "item 0 is 3")]
)
def test_a_wrong_file_is_named(tmp_path, text, said):
    """With what was expected of it."""
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(ParameterError, match=said) as raised:
        inputs(parsed("model", "--prompts", str(file)))
    assert str(file) in str(raised.value)


def test_what_is_missing_is_said(tmp_path):
    """No inputs, no such file, no such pipeline, no such class."""
    with pytest.raises(ParameterError, match="--prompt TEXT"):
        inputs(parsed("model"))
    with pytest.raises(ParameterError, match="cannot read"):
        inputs(parsed("model", "--prompts", str(tmp_path / "none.txt")))
    with pytest.raises(ParameterError, match="cannot load the pipeline"):
        workload(parsed(str(tmp_path), "--prompt", "a"))
    with pytest.raises(ParameterError, match="no such directory here"):
        workload(parsed(str(tmp_path / "none"), "--prompt", "a"))
    with pytest.raises(ParameterError, match="'FluxPipeline'"):
        workload(parsed("model", "--prompt", "a", "--pipeline", "FluxPipelin"))


@pytest.mark.parametrize("given", [("--call", "height"), ("--steps", "0"), ("--call", "a=[")])
def test_a_wrong_argument_is_refused(given, capsys):
    """Before anything is loaded."""
    with pytest.raises(SystemExit):
        parsed("model", *given)
    assert given[0] in capsys.readouterr().err
