"""Observing the denoiser itself. Its class stays what it was: `from_pipe` compares exact types."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from autocache.runtime.session import Session


class _Hook:
    """A module-level class, so that a copied model's hook belongs to the copy's own session."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # A saved model loads unpatched, also without autocache: this bound method takes anything
        # and does nothing.
        return getattr, (contextlib.nullcontext(), "__exit__")

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return type(self)(copy.deepcopy(self.session, memo))


class Enter(_Hook):
    """Forward pre-hook: a denoiser call begins."""

    @torch.compiler.disable
    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.session.begin(args, kwargs)


class Leave(_Hook):
    """Forward hook: a denoiser call ends."""

    @torch.compiler.disable
    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        self.session.end()


def observe(model: nn.Module, session: Session) -> None:
    # torch types the two hooks as functions of one exact arity; with `with_kwargs` it calls these.
    enter: Any = Enter(session)
    leave: Any = Leave(session)
    model.register_forward_pre_hook(enter, with_kwargs=True)
    model.register_forward_hook(leave, with_kwargs=True)


def unobserve(model: nn.Module, session: Session) -> None:
    pairs = (
        (model._forward_pre_hooks, model._forward_pre_hooks_with_kwargs),
        (model._forward_hooks, model._forward_hooks_with_kwargs),
    )
    for hooks, with_kwargs in pairs:
        for number, hook in list(hooks.items()):
            if isinstance(hook, _Hook) and hook.session is session:
                del hooks[number]
                with_kwargs.pop(number, None)


def session_of(model: nn.Module) -> Session | None:
    """The session that patched this denoiser."""
    for hook in model._forward_pre_hooks.values():
        if isinstance(hook, Enter):
            return hook.session
    return None
