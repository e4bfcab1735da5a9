"""How a model is spread over processes, read off the model itself."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from autocache.device import default
from autocache.errors import ParameterError
from autocache.runtime.ranks import ALONE, Ranks, Shared

if TYPE_CHECKING:
    from autocache.runtime.exchange import Group
    from autocache.runtime.session import Session

SPLITS = "cp_input---"
"""What the names of diffusers' hooks begin with that split a module's input over ranks."""


def given_group(group: Any) -> Any:
    """The process group that a user names by itself or by a mesh of one dimension.

    Raises:
        ParameterError: it is neither.
    """
    if group is None:
        return None
    if dist.is_available():
        if isinstance(group, dist.ProcessGroup):
            return group
        if group == dist.GroupMember.NON_GROUP_MEMBER:
            # What `new_group` gives to a process that it leaves out: that one works by itself.
            return None
    if not hasattr(group, "get_group"):
        raise ParameterError(
            f"group={group!r} is no group of processes: expected a torch.distributed process group "
            "or a device mesh of one dimension"
        )
    if group.ndim != 1:
        raise ParameterError(
            f"group is a mesh with {group.ndim} dimensions; expected one: name the dimension whose "
            "ranks work on one generation, as in mesh['ulysses']"
        )
    return group.get_group()


def ranks_of(session: Session) -> Ranks:
    """Who works together with this process on the generations of a patched model."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    model = session.model
    assert model is not None
    units = _units(model)
    context = getattr(getattr(model, "_parallel_config", None), "context_parallel_config", None)
    # Its own attribute: no public one names the ring and the Ulysses ranks together.
    mesh = getattr(context, "_flattened_mesh", None)
    told = session.group
    work = [told] if told is not None else [mesh.get_group()] if mesh is not None else []
    spread = _weight_groups(model)
    weights: list[Any] = []
    if units:
        # Resident at the moment, its weights do not show whom they are shared with.
        weights = session.shards = spread or session.shards
    elif told is None:
        work += spread
    if not work and not weights:
        return ALONE
    limited = bool(work) and session.ledger.budget is not None
    if not weights:
        units = frozenset()
    return Shared(
        _groups(work, model),
        _groups(weights, model),
        _coupled(session, model, units, limited),
        units,
        splits=mesh is not None,
        limited=limited,
    )


def _groups(found: list[Any], model: nn.Module) -> list[Group]:
    from autocache.runtime.exchange import Group

    # Weights may wait on the CPU for their turn.
    devices = (weight.device for weight in model.parameters())
    device = next((at for at in devices if at.type not in ("cpu", "meta")), torch.device(default()))
    groups = [Group(one, device) for one in dict.fromkeys(found)]
    return [group for group in groups if group.size > 1]


def _units(model: nn.Module) -> frozenset[int]:
    """The modules, by id, that fetch weights when they run, themselves or inside."""
    # Nothing is one before someone has imported what makes it one.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FSDPModule", None)
    if kind is None:
        return frozenset()
    modules = list(model.modules())
    if not any(isinstance(module, kind) for module in modules):
        return frozenset()
    return frozenset(
        id(module)
        for module in modules
        if any(isinstance(inner, kind) for inner in module.modules())
    )


def _weight_groups(model: nn.Module) -> list[Any]:
    """The groups that hold the model's weights in parts."""
    tensors = sys.modules.get("torch.distributed.tensor")
    kind = getattr(tensors, "DTensor", None)
    if kind is None:
        return []
    found: dict[Any, None] = {}
    weights: Any = model.parameters()
    for weight in weights:
        if isinstance(weight, kind):
            mesh = weight.device_mesh
            for dim, placement in enumerate(weight.placements):
                if not placement.is_replicate():
                    found[mesh.get_group(dim)] = None
    return list(found)


def _coupled(
    session: Session, model: nn.Module, units: frozenset[int], limited: bool
) -> frozenset[int]:
    """The parts that may skip a module with its weights elsewhere, or all that skip."""
    from autocache.spec.bind import bind

    if not units and not limited:
        return frozenset()

    bound = bind(session.spec, model)
    return frozenset(
        part.index
        for part in session.parts
        if part.recipe.where.skips
        and not part.recipe.where.exact
        and (limited or not units.isdisjoint(map(id, part.recipe.where.claims(bound))))
    )


def share(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """What a module will work on, where diffusers splits its input over the ranks as it is run."""
    hooks = getattr(module.__dict__.get("_diffusers_hook"), "hooks", {})
    for name, hook in hooks.items():
        if name.startswith(SPLITS):
            args, kwargs = hook.pre_forward(module, *args, **kwargs)
    return args, kwargs


@contextlib.contextmanager
def weights_here(module: nn.Module) -> Iterator[None]:
    """A part of the module can be run by itself: FSDP brings weights for the whole of it only."""
    fetch: Any = getattr(module, "unshard", None)
    release: Any = getattr(module, "reshard", None)
    if fetch is None or release is None:
        yield
        return
    fetch()
    try:
        yield
    finally:
        release()


def gather(tensor: torch.Tensor, group: Group) -> torch.Tensor:
    """All tokens of (batch, tokens, ...), in the order of the ranks, whose shares may differ."""
    from autocache.runtime.exchange import MEANS

    own = torch.tensor([float(tensor.shape[1])])
    lengths = [int(length) for (length,) in group.exchange(MEANS, 0, own).tolist()]
    padded = tensor.new_zeros(tensor.shape[0], max(lengths), *tensor.shape[2:])
    padded[:, : tensor.shape[1]] = tensor
    every = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(every, padded, group=group.process_group)
    return torch.cat([part[:, :n] for part, n in zip(every, lengths, strict=True)], dim=1)
