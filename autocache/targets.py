"""What can be patched: the denoisers of a pipeline, or a model by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from autocache.errors import UnknownModelError
from autocache.spec import registry

if TYPE_CHECKING:
    from autocache.strategy.composition import Composition
    from autocache.strategy.recipe import Strategy

DENOISER_NAMES = ("transformer", "transformer_2", "unet", "prior", "decoder")
"""Where diffusers' pipelines keep what may be a denoiser."""


def modules(target: Any) -> list[tuple[str, nn.Module]]:
    """The modules a target consists of, compiled or not, with the names it has for them."""
    if isinstance(target, nn.Module):
        return [("", target)]
    components = getattr(target, "components", None)
    if not isinstance(components, Mapping):
        return []
    named = [(n, c) for n, c in components.items() if isinstance(c, nn.Module)]
    return list({id(uncompiled(module)): (name, module) for name, module in named}.values())


def uncompiled(module: nn.Module) -> nn.Module:
    """The model that torch.compile made this of, or the module itself."""
    return getattr(module, "_orig_mod", module)


def denoisers(target: Any, spec: Any, strategy: Strategy | Composition) -> list[nn.Module]:
    """The modules to patch, compiled or not.

    Raises:
        UnknownModelError: there is none that the strategy can act on.
    """
    parts = modules(target)
    if not parts:
        raise UnknownModelError(
            f"{describe(target)} is no model; expected a diffusers pipeline or a torch module"
        )
    if isinstance(target, nn.Module):
        return [parts[0][1]]
    if spec == registry.AUTO:
        named = [m for n, m in parts if n in DENOISER_NAMES or registry.find(uncompiled(m))]
    elif spec is not None:
        cls = registry.resolve(spec, None).model
        named = [m for name, m in parts if name in DENOISER_NAMES or _is(uncompiled(m), cls)]
    else:
        named = [module for _, module in parts if registry.find(uncompiled(module))]
    if named:
        return named
    candidates = [m for n, m in parts if n in DENOISER_NAMES]
    if candidates and not strategy.needs_spec:
        return candidates
    candidates = candidates or [m for _, m in parts]
    registry.resolve(spec, uncompiled(candidates[0]))
    raise UnknownModelError(f"{describe(target)} has no denoiser")


def _is(module: nn.Module, cls: str) -> bool:
    """Whether a module is of the class of that qualified name, or of one made from it."""
    return any(f"{base.__module__}:{base.__qualname__}" == cls for base in type(module).__mro__)


def config_of(built: object) -> dict[str, Any]:
    """What a model or scheduler was built with, as far as it says so: diffusers' mapping, or the
    attributes of any object."""
    config = getattr(built, "config", None)
    return dict(config) if isinstance(config, Mapping) else dict(getattr(config, "__dict__", {}))


def describe(target: Any) -> str:
    """A target in an error."""
    return f"a {type(target).__name__}"
