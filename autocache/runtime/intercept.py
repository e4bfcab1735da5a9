"""Intercepting a module: its instance gets a subclass of its own class that overrides `__call__`.

Not `forward`: accelerate and diffusers restore a saved `forward` and would wipe ours, and torch's
compiler sees through a wrapper on it. The call is outside their hooks, so a skipped module neither
computes nor pages its weights in.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from autocache.runtime import offload

if TYPE_CHECKING:
    from autocache.runtime.session import Session
    from autocache.runtime.tray import Tray, Trays

KEY = "_autocache_site"
"""Under which a module has its site, and whether that acts in calls alone that skip something."""

COMPUTE: Any = type("Compute", (), {"__repr__": lambda self: "COMPUTE"})()
"""What `Site.enter` returns when the module is to run and `Site.leave` to see its output."""

PASS: Any = type("Pass", (), {"__repr__": lambda self: "PASS"})()
"""What `Site.enter` returns when the module is to run and the site has no more to do with it."""


class Site(Protocol):
    """A place where the session may act: before a module runs, and after."""

    session: Session

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The output to return in the module's place, or COMPUTE, or PASS."""
        ...

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """The output to return after the module ran."""
        ...


class Ahead(Site, Protocol):
    """A site that may be asked before the compiled code runs that calls its module."""

    trays: Trays
    wants_arguments: bool
    """Whether it looks at what the module is called on, and not at what it returns."""

    def ahead(self, module: nn.Module) -> tuple[Any, ...] | None:
        """What stands in for each call of the module to come, COMPUTE for one that runs; None where
        that depends on what it is called on."""
        ...

    def after(self, module: nn.Module, tray: Tray) -> None:
        """That code has run: on the tray is what the calls were given, and what they left."""
        ...


class Chain:
    """Several sites on one module; the first is outermost."""

    def __init__(self, sites: tuple[Site, ...]) -> None:
        self.sites = sites
        self.session = sites[0].session

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        result = PASS
        for nth, site in enumerate(self.sites):
            output = site.enter(module, args, kwargs)
            if output is COMPUTE:
                result = COMPUTE
            elif output is not PASS:
                for outer in reversed(self.sites[:nth]):
                    output = outer.leave(args, kwargs, output)
                return output
        return result

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        for site in reversed(self.sites):
            output = site.leave(args, kwargs, output)
        return output


# What a site does is Python on host state: compiled code calls it as it is, and resumes after.
_opaque: Any = torch.compiler.disable


@_opaque
def _enter_opaque(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
    output = module.__dict__[KEY][0].enter(module, args, kwargs)
    if output is not PASS and output is not COMPUTE and offload.GROUPED in module.__dict__:
        offload.passed_over(module, left_out_with(module))
    return output


@_opaque
def _leave_opaque(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    return module.__dict__[KEY][0].leave(args, kwargs, output)


def _call_asked(
    site: Ahead, tray: Tray, compute: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
) -> Any:
    """One call, as the compiler traces it, of a module whose site was asked ahead."""
    nth = tray.calls
    tray.calls = nth + 1
    if nth < len(tray.given) and tray.given[nth] is not COMPUTE:
        return tray.given[nth]
    output = compute(*args, **kwargs)
    tray.left.append((args, kwargs) if site.wants_arguments else output)
    return output


class _Intercepted(nn.Module):
    """Mixed into every swapped class, before the original one."""

    def _autocache_traced(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """One call as the compiler traces it."""
        compute: Any = super().__call__
        site: Any = self.__dict__[KEY][0]
        trays = getattr(site, "trays", None)
        if trays is not None and trays.here.laid:
            return _call_asked(site, trays.here, compute, args, kwargs)
        output = _enter_opaque(self, args, kwargs)
        if output is PASS:
            return compute(*args, **kwargs)
        if output is not COMPUTE:
            return output
        output = compute(*args, **kwargs)
        return _leave_opaque(self, args, kwargs, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # Copied with its whole model it stays patched, by the copy's own session. Copied alone it
        # is a plain module: dragging the session along would copy the whole model.
        # torch leaves out what was compiled: it would go on to call this module.
        state = self.__getstate__()
        copied_class = type(self)
        if id(state[KEY][0].session.model) not in memo:
            del state[KEY]
            copied_class = original_class(copied_class)
        copied = object.__new__(copied_class)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(state, memo))
        return copied

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # What is saved is the model as it was: a file must load where autocache is not installed.
        state = {name: value for name, value in self.__getstate__().items() if name != KEY}
        return object.__new__, (original_class(type(self)),), state


@functools.cache
def _swapped_class(base: type) -> type:
    """One subclass per base: the compiler specialises on classes, so a subclass per instance would
    exhaust its recompilation limit."""
    identity = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(base)(base.__name__, (_Intercepted, base), {**identity, "__call__": _calling(base)})


_traced = torch.compiler.is_dynamo_compiling


def _calling(base: Any) -> Callable[..., Any]:
    """The `__call__` of a swapped class. It runs for every module that is intercepted in every
    step, also where nothing is to be done, so it is one function that looks few things up."""
    # Of a class that is called as torch has it, what that does is done here, without the call of
    # it: handing arguments on once more would cost more than all the rest.
    direct = base.__call__ is nn.Module.__call__

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _traced():
            return self._autocache_traced(args, kwargs)
        site, only_skips = self.__dict__[KEY]
        here = site.session.here
        if not (here.skipping if only_skips else here.acting):
            if direct and self._compiled_call_impl is None:
                return self._call_impl(*args, **kwargs)
            return base.__call__(self, *args, **kwargs)
        does = site.enter(self, args, kwargs)
        if does is not PASS and does is not COMPUTE:
            if offload.GROUPED in self.__dict__:
                offload.passed_over(self, left_out_with(self))
            return does
        if direct and self._compiled_call_impl is None:
            output = self._call_impl(*args, **kwargs)
        else:
            output = base.__call__(self, *args, **kwargs)
        return output if does is PASS else site.leave(args, kwargs, output)

    return __call__


@functools.cache
def original_class(swapped: type) -> type:
    """The class a module had before it was intercepted; any other class is itself.

    What someone made of the intercepted class since, as FSDP does, is made of the one before.
    """
    if not issubclass(swapped, _Intercepted):
        return swapped
    if swapped.__bases__[0] is _Intercepted:
        return swapped.__bases__[1]
    own = {k: v for k, v in vars(swapped).items() if k not in ("__dict__", "__weakref__")}
    make: Any = type(swapped)
    return make(swapped.__name__, tuple(map(original_class, swapped.__bases__)), own)


def site_of(module: nn.Module) -> Site | None:
    return module.__dict__.get(KEY, (None,))[0]


def _units(module: nn.Module) -> set[object]:
    site: Any = site_of(module)
    return {one.unit for one in getattr(site, "sites", (site,)) if hasattr(one, "unit")}


def left_out_with(module: nn.Module) -> Callable[[nn.Module], bool]:
    """Tells of other modules whether they are left out together with this one, or none is.

    The sites of such modules have one `unit`.
    """
    units = _units(module)
    return lambda other: not units.isdisjoint(_units(other))


def install(module: nn.Module, sites: list[Site]) -> None:
    """Swap the module's class; `sites` act on its calls, the first outermost."""
    base = type(module)
    only_skips = all(getattr(site, "only_skips", False) for site in sites)
    module.__dict__[KEY] = sites[0] if len(sites) == 1 else Chain(tuple(sites)), only_skips
    try:
        module.__class__ = _swapped_class(base)
    except TypeError:
        del module.__dict__[KEY]
        raise


def remove(module: nn.Module) -> None:
    """Give the module its class back."""
    module.__class__ = original_class(type(module))
    del module.__dict__[KEY]


def intercepted(model: nn.Module, session: Session) -> Iterator[nn.Module]:
    """The modules on which this session acts."""
    for module in model.modules():
        site = site_of(module)
        if site is not None and site.session is session:
            yield module
