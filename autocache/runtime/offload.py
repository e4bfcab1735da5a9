"""What offloading needs from whoever calls a module's insides by itself, or leaves the module out.

accelerate and diffusers wrap `forward` in hooks with two moments: `pre_forward` brings the weights
to where the module computes, `post_forward` takes them away again. diffusers moves blocks in groups
besides, brought by the first of a group and taken away by its last. These attributes are all that
is looked at: neither library has to be there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

GROUPED = "_diffusers_hook"
"""The attribute under which diffusers keeps the hooks of a module."""
SINGLE = "_hf_hook"
"""That under which accelerate keeps its one."""


def _hooks(module: nn.Module) -> list[Any]:
    """The hooks that move a module's weights or inputs, outermost first."""
    own = vars(module)
    registry, single = own.get(GROUPED), own.get(SINGLE)
    hooks = [*registry.hooks.values()][::-1] if registry is not None else []
    hooks += [single] if single is not None else []
    return [hook for hook in hooks if _MOVING & vars(hook).keys()]


_MOVING = {"group", "execution_device", "hooks"}
"""What a hook has that moves something: diffusers' for groups, accelerate's, a sequence of those.
Others are left alone: one that gathers a result over processes has none to gather here."""


def computes_on(model: nn.Module) -> Any:
    """Where its hooks bring a model and what it is given; None where it is used as it is placed."""
    for hook in _hooks(model) if {GROUPED, SINGLE} & vars(model).keys() else ():
        if hasattr(hook, "group"):
            return hook.group.onload_device
        if getattr(hook, "execution_device", None) is not None:
            return hook.execution_device
    return None


@contextlib.contextmanager
def onloaded(
    module: nn.Module, args: tuple, kwargs: dict[str, Any]
) -> Iterator[tuple[tuple, dict[str, Any]]]:
    """The module's weights are where it computes, and the arguments, as they are given, too."""
    for hook in _hooks(module):
        args, kwargs = hook.pre_forward(module, *args, **kwargs)
    try:
        yield args, kwargs
    finally:
        offload(module)


def offload(module: nn.Module) -> None:
    """Take the weights away again from a module whose `forward` was left in the middle."""
    for hook in reversed(_hooks(module)):
        hook.post_forward(module, None)
        group = getattr(hook, "group", None)
        if group is not None and group.offload_leader is not module:
            group.offload_()


def passed_over(module: nn.Module, also: Callable[[nn.Module], bool]) -> None:
    """Do for the rest of its group what a module does that is not run in this call.

    `also` tells of another module whether it is left out together with this one.
    """
    for hook in vars(module)[GROUPED].hooks.values():
        group = getattr(hook, "group", None)
        if group is None or all(other is module or also(other) for other in group.modules):
            continue
        if group.onload_leader is module:
            group.onload_()
        if group.offload_leader is module:
            group.offload_()
