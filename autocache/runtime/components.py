"""How long the other components of a pipeline take: text encoders, VAE, ControlNet.

Only while a call of the pipeline is under way is anything on them, and nothing on a denoiser. What
torch.compile traces of it is nothing, so that no graph of theirs is another one.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from autocache.runtime import runs
from autocache.targets import modules, uncompiled

METHODS = ("encode", "decode")
"""What an autoencoder is called by; anything else is called itself."""

_changing = threading.Lock()
_watched: dict[int, _Watch] = {}


@contextlib.contextmanager
def timed(pipeline: Any, denoisers: Sequence[nn.Module | None]) -> Iterator[None]:
    """Note in the pipeline's call, which is under way here, what its other components take."""
    run = runs.innermost()
    others = _others(pipeline, denoisers)
    if run is not None:
        run.call.names.update((id(uncompiled(module)), name) for name, module in others)
    watches = [_watch(module) for _, module in others]
    try:
        yield
    finally:
        for watch in watches:
            watch.leave()


def _others(pipeline: Any, denoisers: Sequence[nn.Module | None]) -> list[tuple[str, nn.Module]]:
    """Its modules that are no denoiser, and in which none is wrapped."""
    left_out = {id(uncompiled(model)) for model in denoisers if model is not None}
    every = [(n, m) for n, m in modules(pipeline) if not isinstance(m, torch.jit.ScriptModule)]
    others = [(n, m) for n, m in every if id(uncompiled(m)) not in left_out]
    if len(every) - len(others) == len(left_out):
        return others
    return [(n, m) for n, m in others if left_out.isdisjoint(map(id, m.modules()))]


class _Watch:
    """On one module, as long as any call of a pipeline that has it is under way."""

    def __init__(self, module: nn.Module) -> None:
        self.calls = 0
        self._module = module
        self._handles = [
            module.register_forward_pre_hook(_began, prepend=True),
            module.register_forward_hook(_ended, always_call=True),
        ]
        self._own = vars(uncompiled(module))
        self._put: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        for name in METHODS:
            if callable(method := getattr(uncompiled(module), name, None)):
                self._before |= {name: self._own[name]} if name in self._own else {}
                self._put[name] = self._own[name] = _around(uncompiled(module), name, method)

    def leave(self) -> None:
        """One of the calls is over; with the last everything is taken off."""
        with _changing:
            self.calls -= 1
            if self.calls:
                return
            del _watched[id(self._module)]
            for handle in self._handles:
                handle.remove()
            for name, put in self._put.items():
                # What was put over ours since is another's, and stays.
                if self._own.get(name) is not put:
                    continue
                if name in self._before:
                    self._own[name] = self._before[name]
                else:
                    del self._own[name]


def _watch(module: nn.Module) -> _Watch:
    with _changing:
        watch = _watched.get(id(module))
        if watch is None:
            watch = _watched[id(module)] = _Watch(module)
        watch.calls += 1
        return watch


def _around(module: nn.Module, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        _enter(module, f".{name}")
        try:
            return method(*args, **kwargs)
        finally:
            _leave(module)

    return call


def _began(module: nn.Module, args: tuple) -> None:
    _enter(uncompiled(module))


def _ended(module: nn.Module, args: tuple, output: Any) -> None:
    _leave(uncompiled(module))


def _enter(module: nn.Module, method: str = "") -> None:
    # Where it is traced, what is timed is the compiler.
    run = None if torch.compiler.is_compiling() else runs.innermost()
    if run is not None:
        run.call.enter(module, method)


def _leave(module: nn.Module) -> None:
    run = None if torch.compiler.is_compiling() else runs.innermost()
    if run is not None:
        run.call.leave(module)
