"""A script that draws with a diffusers pipeline, as something that can be run again and again.

The script runs once, as it is. The arguments of its pipeline's calls are kept, with the state of
their generators, and are what strategies are compared on: the model is loaded once, and every run
of a call starts from the same noise.
"""

from __future__ import annotations

import contextlib
import inspect
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from autocache.errors import AutocacheError, ParameterError
from autocache.tuning.workload import Workload

FORMS = ("output_type", "return_dict")
"""Arguments that only say in which form a call returns what it drew."""


class _Enough(BaseException):
    """As many calls as were asked for have been seen."""


@dataclass(frozen=True)
class _Call:
    pipe: Any
    arguments: Mapping[str, Any]

    @property
    def works(self) -> bool:
        """Whether it takes more than the one step that warms up."""
        return self.arguments.get("num_inference_steps") != 1


@dataclass
class _Calls:
    """Calls as they come in; `most` ends the script after so many."""

    most: int | None
    seen: list[_Call] = field(default_factory=list)
    _within: bool = False

    def __call__(self, wrapped: Any, pipe: Any, args: Any, kwargs: Any) -> Any:
        if self._within:  # A pipeline may be made of others.
            return wrapped(*args, **kwargs)
        call = _Call(pipe, _bound(wrapped, args, kwargs))
        self._within = True
        try:
            returned = wrapped(*args, **kwargs)
        finally:
            self._within = False
        self.seen.append(call)
        if self.most is not None and sum(one.works for one in self.seen) >= self.most:
            raise _Enough
        return returned


class ScriptWorkload(Workload):
    """The calls that a script made of one pipeline."""

    def __init__(self, pipe: Any, inputs: Sequence[Mapping[str, Any]], seed: int) -> None:
        super().__init__(pipe, inputs, seed=seed, batch=1)

    def calls(self) -> Iterator[dict[str, Any]]:
        """The arguments of each call, its generators as they were."""
        for seed, given in enumerate(self.inputs, self.seed):
            assert isinstance(given, Mapping)
            # For what draws from no generator of its own.
            torch.manual_seed(seed)
            yield {name: _again(value) for name, value in given.items()}


def captured(
    script: Path, arguments: Sequence[str] = (), *, seed: int = 0, calls: int | None = None
) -> ScriptWorkload:
    """Run a script and take the calls it makes of its pipeline.

    Args:
        script: a Python file.
        arguments: its command line.
        seed: of torch before it begins, and of each call that is given no generator.
        calls: at most so many, after which the script is ended; None for all that it makes.

    Raises:
        ParameterError: there is no such file.
        AutocacheError: the script failed, or called no pipeline.
    """
    if not script.is_file():
        raise ParameterError(f"{script}: there is no such script")
    seen = _Calls(calls)
    torch.manual_seed(seed)
    with _watched(seen), _as_main(script, arguments):
        _run(script)
    if not seen.seen:
        raise AutocacheError(
            f"{script} called no pipeline of diffusers in this process, so there is nothing to "
            "compare; give the directory of its pipeline and --prompt instead"
        )
    chosen = kept(seen.seen)
    return ScriptWorkload(chosen[0].pipe, [one.arguments for one in chosen], seed)


def kept(calls: Sequence[_Call]) -> list[_Call]:
    """The calls of the pipeline that is called most, without those of one step, which warm up."""
    counts = {id(one.pipe): 0 for one in calls}
    working = [one for one in calls if one.works] or calls
    for one in working:
        counts[id(one.pipe)] += 1
    chosen = max(counts, key=lambda pipe: counts[pipe], default=None)
    return [one for one in working if id(one.pipe) == chosen]


def _run(script: Path) -> None:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            runpy.run_path(str(script), run_name="__main__")
    except _Enough:
        return
    except SystemExit as error:
        if error.code:
            raise AutocacheError(f"{script} ended with exit status {error.code}") from error
    except Exception as error:
        raise AutocacheError(_failed(script, error)) from error


def _failed(script: Path, error: Exception) -> str:
    """What a traceback ends with, and the last line of the script in it."""
    said = " ".join("".join(traceback.format_exception_only(error)).split())
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(script)]
    return f"{script}{f', line {lines[-1]},' if lines else ''} failed: {said}"


@contextlib.contextmanager
def _as_main(script: Path, arguments: Sequence[str]) -> Iterator[None]:
    """The command line and the import path that Python gives a script."""
    argv, path = sys.argv, sys.path
    sys.argv, sys.path = [str(script), *arguments], [str(script.resolve().parent), *path]
    try:
        yield
    finally:
        sys.argv, sys.path = argv, path


@contextlib.contextmanager
def _watched(calls: _Calls) -> Iterator[None]:
    """See the calls of every pipeline that is made meanwhile."""
    from diffusers import DiffusionPipeline

    from autocache.runtime.wrapping import Wrapping

    watched: dict[type, Wrapping] = {}

    def registering(register: Any, pipe: Any, args: Any, kwargs: Any) -> None:
        register(*args, **kwargs)
        owner = next((one for one in type(pipe).__mro__ if "__call__" in vars(one)), None)
        if owner is not None and owner not in watched:
            watched[owner] = Wrapping(owner, "__call__", calls)

    made = Wrapping(DiffusionPipeline, "register_modules", registering)
    try:
        yield
    finally:
        for wrapping in (made, *watched.values()):
            wrapping.off()


def _bound(call: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments by name, generators as their present state."""
    given = inspect.signature(call).bind(*args, **kwargs)
    named = dict(given.arguments)
    for name, parameter in given.signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= named.pop(name, {})
    return {name: _state(value) for name, value in named.items() if name not in FORMS}


@dataclass(frozen=True)
class _State:
    """A generator as it was."""

    device: torch.device
    state: torch.Tensor

    def __str__(self) -> str:
        return "generator"


def _state(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return _State(value.device, value.get_state())
    if isinstance(value, list) and any(isinstance(one, torch.Generator) for one in value):
        return [_state(one) for one in value]
    return value


def _again(value: Any) -> Any:
    if isinstance(value, _State):
        return torch.Generator(value.device).set_state(value.state)
    if isinstance(value, list) and any(isinstance(one, _State) for one in value):
        return [_again(one) for one in value]
    return value
