"""What in a spec does not hold for a live model, or for its classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from autocache.errors import nearest
from autocache.spec.facts import Location
from autocache.spec.modules import named, signature, submodule
from autocache.spec.schema import Probe, Spec, Stack

Problem = tuple[Location, str]


def of_arguments(spec: Spec, cls: type[nn.Module]) -> Iterator[Problem]:
    """Arguments that the forward of the denoiser's class does not have."""
    names = signature(cls).names
    for key in ("timestep", "latent", "frames"):
        given = getattr(spec, key)
        if given is not None and given not in names:
            yield (key,), _no_argument(given, cls, names)
    for name in spec.batch_axes:
        if name not in names:
            yield ("batch_axes", name), _no_argument(name, cls, names)
    for name in spec.compute_when:
        if name.partition(".")[0] not in names:
            yield ("compute_when", name), _no_argument(name, cls, names)


def of_modules(spec: Spec, model: nn.Module) -> Iterator[Problem]:
    """Patterns that no module of the denoiser fits."""
    if spec.unet is not None:
        # A UNet is put together from levels with and without attention.
        return
    # What does not change with time may be absent from a checkpoint, an image embedder for one.
    expected = [pattern for pattern in spec.invariant if not pattern.endswith("?")]
    if expected and not any(named(model, pattern) for pattern in spec.invariant):
        yield ("invariant",), f"no module of {type(model).__name__} fits any of these patterns"
    for key in ("attention", "feed_forward"):
        for i, pattern in enumerate(getattr(spec, key)):
            if not pattern.endswith("?") and not named(model, pattern):
                at = (key, pattern if key == "attention" else i)
                yield at, f"no module of {type(model).__name__} fits {pattern!r}"


def of_blocks(at: Location, stack: Stack, blocks: tuple[nn.Module, ...]) -> Iterator[Problem]:
    """Facts about a stack that do not hold for its blocks."""
    for cls in dict.fromkeys(type(block) for block in blocks):
        # Patched blocks are instances of a subclass, so the name may belong to a base.
        names = [base.__name__ for base in cls.__mro__]
        if not set(names) & set(stack.block_names):
            message = f"the blocks of {stack.path!r} are {cls.__name__}, not "
            yield (*at, "block"), message + " or ".join(stack.block_names)
        yield from of_streams(at, stack, cls)
    for block in blocks[:1]:
        for path in stack.attention:
            yield from _absent((*at, "attention", path), blocks, path)
        for i, path in enumerate(stack.feed_forward):
            yield from _absent((*at, "feed_forward", i), blocks, path)
        if stack.after_attention:
            yield from _missing((*at, "after_attention"), block, stack.after_attention)


def of_streams(at: Location, stack: Stack, cls: type[nn.Module]) -> Iterator[Problem]:
    """Streams of a stack that are no arguments of a block class."""
    names = signature(cls).names
    for i, stream in enumerate(stack.streams):
        if stream.partition(".")[0] not in names:
            yield (*at, "streams", i), _no_argument(stream, cls, names)


def of_probe(
    at: Location, probe: Probe, model: nn.Module, first: tuple[nn.Module, ...]
) -> Iterator[Problem]:
    """Facts about a probe that do not hold for the denoiser, or for the first of its blocks."""
    if probe.output_of:
        yield from _missing((*at, "output_of", "module"), model, probe.output_of.module)
    for block in first:
        arguments = signature(type(block)).names
        if probe.argument and probe.argument not in arguments:
            yield (*at, "argument"), _no_argument(probe.argument, type(block), arguments)
        if probe.call:
            here = (*at, "call")
            yield from _missing((*here, "module"), block, probe.call.module)
            where = (*here, "arguments")
            yield from _unknown(where, block, probe.call.module, probe.call.arguments)
            for parameter, argument in probe.call.arguments.items():
                if argument not in arguments:
                    message = _no_argument(argument, type(block), arguments)
                    yield (*where, parameter), message
        if probe.input_of:
            here = (*at, "input_of")
            yield from _missing((*here, "module"), block, probe.input_of.module)
            yield from _unknown(here, block, probe.input_of.module, [probe.input_of.argument])


def _missing(at: Location, parent: nn.Module, path: str) -> Iterator[Problem]:
    if submodule(parent, path) is None:
        names = (name for name, _ in parent.named_modules() if name)
        yield at, f"{type(parent).__name__} has no submodule {path!r}{nearest(path, names)}"


def _absent(at: Location, blocks: tuple[nn.Module, ...], path: str) -> Iterator[Problem]:
    """A sub-module that no block has although one of them must."""
    if not path.endswith("?") and all(submodule(block, path) is None for block in blocks):
        yield from _missing(at, blocks[0], path)


def _unknown(at: Location, parent: nn.Module, path: str, given: Iterable[str]) -> Iterator[Problem]:
    module = submodule(parent, path)
    if module is None:
        return
    names = signature(type(module)).names
    for name in given:
        if name not in names:
            yield (*at, name), _no_argument(name, type(module), names)


def _no_argument(name: str, cls: type, names: Iterable[str]) -> str:
    return f"{cls.__name__}.forward has no argument {name!r}{nearest(name, names)}"


def no_stack(path: str, found: nn.Module | None, model: nn.Module) -> str:
    """That a path leads to no list of blocks."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if found is None:
        return f"{type(model).__name__} has no {path!r}{nearest(path, lists)}"
    return f"{path!r} is a {type(found).__name__}, not a ModuleList{nearest(path, lists)}"
