"""A tensor that the model's spec names, measured before the first block decides."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autocache.errors import ParameterError, nearest
from autocache.runtime import offload
from autocache.runtime.intercept import COMPUTE, PASS
from autocache.runtime.parallelism import weights_here
from autocache.spec.bind import signature

if TYPE_CHECKING:
    from autocache.runtime.intercept import Site
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound
    from autocache.spec.schema import Call


@dataclass(frozen=True)
class Named:
    """A probe that the model's spec describes, by its name there."""

    name: str

    def sites(self, bound: Bound, part: Part) -> list[tuple[nn.Module, Site]]:
        known = bound.spec.probes
        if self.name not in known:
            raise ParameterError(
                f"{bound.spec.name} has no probe {self.name!r}{nearest(self.name, known)}"
            )
        probe = known[self.name]
        if probe.output_of is not None:
            module = bound.model.get_submodule(probe.output_of.module)
            return [(module, _OutputOf(part, probe.output_of.output))]
        stack = bound.stack()
        first = stack.blocks[0]
        if probe.input_of is not None:
            return [(first, _RunsUpTo(part, probe.input_of.module, probe.input_of.argument))]
        if probe.call is not None:
            return [(first, _Calls(part, stack.binder, probe.call))]
        assert probe.argument is not None
        return [(first, _Argument(part, stack.binder, probe.argument))]


class _Probe:
    def __init__(self, part: Part) -> None:
        self.part = part
        self.session = part.session

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        moment = self.part.moment
        if moment is not None:
            moment.probe = self.measure(module, args, kwargs)
        return PASS

    def measure(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        return output


class _Argument(_Probe):
    """An argument of the first block."""

    def __init__(self, part: Part, signature: Any, name: str) -> None:
        super().__init__(part)
        self.signature, self.name = signature, name

    def measure(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        return self.signature.get(self.name, args, kwargs)


class _Calls(_Probe):
    """One sub-module of the first block, called on the block's arguments."""

    def __init__(self, part: Part, signature: Any, call: Call) -> None:
        super().__init__(part)
        self.signature, self.call = signature, call

    def measure(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        call = self.call
        with weights_here(module), offload.onloaded(module, args, kwargs) as (args, kwargs):
            given = {p: self.signature.get(a, args, kwargs) for p, a in call.arguments.items()}
            output = module.get_submodule(call.module)(**given)
        return output if call.output is None else output[call.output]


class _OutputOf(_Probe):
    """What a module of the denoiser returned in this call."""

    def __init__(self, part: Part, output: int | None) -> None:
        super().__init__(part)
        self.output = output

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        return COMPUTE

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        moment = self.part.moment
        if moment is not None:
            moment.probe = output if self.output is None else output[self.output]
        return output


class _Reached(Exception):
    """The first block got as far as the sub-module whose input is wanted."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value


class _RunsUpTo(_Probe):
    """Runs the first block as far as the sub-module whose input is the probe: a norm and a shift.

    The sub-module is hooked only meanwhile: anything lasting on it would break the graph of a
    compiled block.
    """

    def __init__(self, part: Part, path: str, argument: str) -> None:
        super().__init__(part)
        self.path, self.argument = path, argument

    def measure(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        *around, inner = _path(module, self.path)
        names, here = signature(type(inner)), threading.get_ident()
        entered = [module]

        def reached(_: nn.Module, given: tuple, named: dict[str, Any]) -> None:
            if threading.get_ident() == here:
                raise _Reached(names.get(self.argument, given, named))

        def passed(outer: nn.Module, _: tuple) -> None:
            if threading.get_ident() == here:
                entered.append(outer)

        handles = [inner.register_forward_pre_hook(reached, with_kwargs=True)]
        handles += [outer.register_forward_pre_hook(passed) for outer in around]
        try:
            # The plain forward: a compiled block cannot be left in the middle.
            with weights_here(module):
                module.forward(*args, **kwargs)
        except _Reached as at:
            # Those whose weights came on the way do not get to the end of their own forward.
            for outer in reversed(entered):
                offload.offload(outer)
            return at.value
        finally:
            for handle in handles:
                handle.remove()
        return None


def _path(module: nn.Module, path: str) -> list[nn.Module]:
    """The sub-modules on the way to the one of that path, and it."""
    names = path.split(".")
    return [module.get_submodule(".".join(names[: end + 1])) for end in range(len(names))]
