"""A model that changes after it was patched: adapters, fused projections, exchanged modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocache.runtime import intercept
from autocache.spec.bind import bind

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.session import Session
    from autocache.spec.bind import Bound

ALTERING = (
    "add_adapter",
    "delete_adapters",
    "disable_adapters",
    "disable_freeu",
    "disable_lora",
    "enable_adapters",
    "enable_freeu",
    "enable_lora",
    "fuse_lora",
    "fuse_qkv_projections",
    "load_attn_procs",
    "load_lora_adapter",
    "set_adapter",
    "set_adapters",
    "set_attn_processor",
    "set_ip_adapter_scale",
    "unfuse_lora",
    "unfuse_qkv_projections",
    "unload_lora",
    "_load_ip_adapter_weights",
)
"""Methods of diffusers' models and pipelines that change what a denoiser computes."""

NOTHING = 0
"""The anatomy of a model in which nothing is intercepted, whatever it is made of."""


def sites(session: Session, bound: Bound) -> list[tuple[nn.Module, Site]]:
    """The modules to intercept, each with what acts on its calls."""
    found: list[tuple[nn.Module, Site]] = []
    for part in session.parts:
        probe, where = part.recipe.when.probe, part.recipe.where
        found += [*(probe.sites(bound, part) if probe else ()), *where.sites(bound, part)]
    return found


def place(session: Session, found: list[tuple[nn.Module, Site]]) -> None:
    """Intercept the modules, and remember what the model is made of."""
    grouped: dict[nn.Module, list[Site]] = {}
    for module, site in found:
        grouped.setdefault(module, []).append(site)
    for module, chain in grouped.items():
        intercept.install(module, chain)
        session.placed.add(module)
    assert session.model is not None
    session.anatomy = _anatomy(session.model) if found else NOTHING


def displace(session: Session) -> None:
    """Intercept nothing any more; also not the modules that are no part of the model by now."""
    inside = intercept.intercepted(session.model, session) if session.model is not None else ()
    for module in {*inside, *session.placed}:
        site = intercept.site_of(module)
        if site is not None and site.session is session:
            intercept.remove(module)
    session.placed.clear()


def follow(session: Session) -> None:
    """Act on the modules that the model has now, where they are others than it was patched on.

    Loading an adapter puts a layer in the place of each that it adapts, quantizing and fusing do
    the like: what was intercepted is then inside another module, or gone.

    Raises:
        SpecError: the spec does not fit the model as it is now; so do further errors of `patch`.
    """
    model = session.model
    assert model is not None
    if session.anatomy is not None and session.anatomy in (NOTHING, _anatomy(model)):
        session.stale = False
        return
    bound = bind(session.spec, model)
    found = sites(session, bound)
    displace(session)
    try:
        place(session, found)
    except BaseException:
        displace(session)
        raise
    session.count(bound)
    session.stale = False


def _anatomy(model: nn.Module) -> int:
    """Every module by its identity. One that was made where a dead one lay has not its site."""
    return hash(tuple((id(module), id(intercept.site_of(module))) for module in model.modules()))
