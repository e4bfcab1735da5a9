"""A script as what is compared: its calls of a pipeline are run again from the same noise."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import wrapt
from diffusers import DiffusionPipeline, FluxPipeline

import autocache
from autocache import demo
from autocache.comparison.script import captured
from autocache.errors import AutocacheError, ParameterError

SCRIPT = """
import sys
import numpy as np
import torch
from diffusers import FluxPipeline
import beside

model, out = sys.argv[1:3]
pipe = FluxPipeline.from_pretrained(model)
small = {"height": 64, "width": 64, "max_sequence_length": 24, "output_type": "np"}
pipe("a warm-up", num_inference_steps=1, **small)
noise = torch.Generator().manual_seed(3)
drawn = [
    pipe(text, num_inference_steps=3, generator=noise, **small).images[0]
    for text in ("a small red circle", "a large blue square")
]
print("drawn")
np.savez(out, *drawn)
"""
ENDS = {
    "raise ValueError('no such\\nprompt')": r"line 1, failed: ValueError: no such prompt",
    "import sys; sys.exit(3)": "ended with exit status 3",
    "print('nothing')": "called no pipeline of diffusers",
    "1 +": "SyntaxError",
}


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("")
    file = tmp_path / "infer.py"
    file.write_text(SCRIPT)
    return file


def test_the_plain_run_is_what_the_script_draws(script, tmp_path, capsys):
    """Its own pictures, whose one generator goes on from call to call, without the warm-up."""
    own = tmp_path / "own.npz"
    # As the class has it: to look it up binds it, and what is wrapped binds anew each time.
    call, argv = vars(FluxPipeline)["__call__"], list(sys.argv)
    found = autocache.compare(
        script, ["fora:interval=2"], args=[demo.path(), str(own)], rounds=1, out=tmp_path / "out"
    )
    assert (found.samples, found.steps) == (2, 3)
    with np.load(own) as drawn, np.load(tmp_path / "out" / "runs" / "plain.npz") as plain:
        for name in ("arr_0", "arr_1"):
            np.testing.assert_allclose(plain[name], drawn[name], atol=1e-5)
    assert found.rows[-1].speedup > 0
    assert np.isfinite(found.rows[-1].psnr)
    # What was changed to listen is as before, and the script's words are not our output.
    assert vars(FluxPipeline)["__call__"] is call
    assert sys.argv == argv
    said = capsys.readouterr()
    assert "drawn" not in said.out
    assert "drawn" in said.err


def test_what_others_have_wrapped_is_as_before(script, tmp_path, monkeypatch):
    """A tool that traces calls wraps the class: it is heard in the script, and stays."""
    traced = []

    def trace(wrapped, pipe, args, kwargs):
        traced.append(kwargs["num_inference_steps"])
        return wrapped(*args, **kwargs)

    theirs = wrapt.FunctionWrapper(vars(FluxPipeline)["__call__"], trace)
    monkeypatch.setattr(FluxPipeline, "__call__", theirs)
    register = vars(DiffusionPipeline)["register_modules"]
    workload = captured(script, [demo.path(), str(tmp_path / "own.npz")])
    assert traced == [1, 3, 3]
    assert workload.inputs[0]["prompt"] == "a small red circle"
    assert vars(FluxPipeline)["__call__"] is theirs
    assert vars(DiffusionPipeline)["register_modules"] is register


def test_a_script_that_patches_its_pipeline(tmp_path):
    """What the patch hears of the pipeline it still hears when the script is over."""
    file = tmp_path / "patched.py"
    patching = 'import autocache\nautocache.patch(pipe, "fora", interval=2)\npipe("a warm-up"'
    file.write_text(SCRIPT.replace("import beside\n", "").replace('pipe("a warm-up"', patching))
    workload = captured(file, [demo.path(), str(tmp_path / "own.npz")], calls=1)
    pipe, (given,) = workload.pipe, workload.calls()
    before = autocache.stats(pipe)
    pipe(**given)
    stats = autocache.stats(pipe)
    autocache.unpatch(pipe)
    assert (before.generations, stats.generations) == (2, 3)
    assert stats.bytes_held == 0
    assert stats.times.call > before.times.call


def test_a_script_can_be_ended_after_some_calls(script, tmp_path):
    """For one that never ends by itself; what comes behind is not run."""
    own = tmp_path / "own.npz"
    workload = captured(script, [demo.path(), str(own)], calls=1)
    assert [given["prompt"] for given in workload.inputs] == ["a small red circle"]
    assert not own.exists()


@pytest.mark.parametrize("source", ENDS)
def test_a_script_that_fails_is_named_with_its_error(tmp_path, source):
    """In one line, as its traceback ends."""
    file = tmp_path / "bad.py"
    file.write_text(source)
    with pytest.raises(AutocacheError, match=ENDS[source]) as raised:
        captured(file)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_script_is_another_question_once_it_is_changed(script, tmp_path):
    """Its text and its arguments are what the figures depend on."""
    given = {"args": [demo.path(), str(tmp_path / "own.npz")], "rounds": 1, "calls": 1}
    out = tmp_path / "out"
    autocache.compare(script, ["fora"], out=out, fewer_steps=False, **given)
    script.write_text(SCRIPT + "# changed\n")
    with pytest.raises(ParameterError, match="script="):
        autocache.compare(script, ["fora"], out=out, **given)


def test_no_script_and_inputs_beside_one_are_refused(script, tmp_path):
    """Before it is run."""
    with pytest.raises(ParameterError, match="no such script"):
        captured(tmp_path / "none.py")
    with pytest.raises(ParameterError, match="inputs of its own"):
        autocache.compare(script, inputs=["a"], out=tmp_path / "out")
