"""Observing the denoiser itself. Its class stays what it was: `from_pipe` compares exact types."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autocache.errors import PatchError
from autocache.runtime.compiled import SLOT

if TYPE_CHECKING:
    from autocache.runtime.session import Session

_opaque: Any = torch.compiler.disable


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

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_dynamo_compiling():
            _begin_compiled(self.session, args, kwargs)
        elif not self.session.surrounded():
            self.session.begin(args, kwargs)


class Leave(_Hook):
    """Forward hook: a denoiser call ends, with no output where an exception passes it."""

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if torch.compiler.is_dynamo_compiling():
            _end_compiled(self.session)
        elif not self.session.here.track.surrounded:
            self.session.end() if output is not None else self.session.abandon()


@_opaque
def _begin_compiled(session: Session, args: tuple, kwargs: dict[str, Any]) -> None:
    if not session.surrounded():
        session.begin(args, kwargs)
    session.compiled.begin()


@_opaque
def _end_compiled(session: Session) -> None:
    session.compiled.end()
    if not session.here.track.surrounded:
        session.end()


@_opaque
def refuse(session: Session) -> None:
    """Raises PatchError: calls cannot be skipped as a whole from inside what was compiled."""
    raise PatchError(
        f"{session.label} was given to torch.compile after it was patched, so its calls cannot be "
        "skipped as a whole; compile it in place with its compile() method, or before "
        "autocache.patch"
    )


class Around:
    """Stands where torch looks for a compiled form of the module, before it runs hooks or forward.

    It is the one place from which a call can be left out without changing the module's class or
    its forward. torch leaves it out of copies and files, and what was compiled runs inside it.
    """

    def __init__(self, session: Session, inner: Any) -> None:
        self.session = session
        self.inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            # Traced, what the session decides now would be decided for ever.
            refuse(self.session)
        entry: Any = self.session.entry
        return self.session.surround(self.inner or entry._call_impl, args, kwargs)


def surround(session: Session) -> None:
    """Have every call of the model go through the session."""
    # A plain attribute: torch's own setter would look for a submodule of that name.
    slots = vars(session.entry)
    slots[SLOT] = Around(session, slots.get(SLOT))


def is_surrounded(session: Session) -> bool:
    return isinstance(vars(session.entry).get(SLOT), Around)


def observe(model: nn.Module, session: Session) -> None:
    # torch types the two hooks as functions of one exact arity; with `with_kwargs` it calls these.
    enter: Any = Enter(session)
    leave: Any = Leave(session)
    model.register_forward_pre_hook(enter, with_kwargs=True)
    model.register_forward_hook(leave, with_kwargs=True, always_call=True)


def unobserve(model: nn.Module, session: Session) -> None:
    # What torch.compile made of the model may be gone before it.
    entry = session.entry
    slots = vars(model if entry is None else entry)
    around = slots.get(SLOT)
    if isinstance(around, Around) and around.session is session:
        del slots[SLOT]
        if around.inner is not None:
            slots[SLOT] = around.inner
    pairs = (
        (model._forward_pre_hooks, model._forward_pre_hooks_with_kwargs),
        (model._forward_hooks, model._forward_hooks_with_kwargs),
    )
    for hooks, with_kwargs in pairs:
        for number, hook in list(hooks.items()):
            if isinstance(hook, _Hook) and hook.session is session:
                del hooks[number]
                with_kwargs.pop(number, None)
                model._forward_hooks_always_called.pop(number, None)


def session_of(model: nn.Module) -> Session | None:
    """The session that patched this denoiser."""
    for hook in model._forward_pre_hooks.values():
        if isinstance(hook, Enter):
            return hook.session
    return None
