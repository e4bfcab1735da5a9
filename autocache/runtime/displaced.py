"""Whether a patch is still where it was put: another library may have taken its place since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autocache.runtime import root, signals

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.moment import Moment
    from autocache.runtime.part import Part
    from autocache.runtime.record import StepRecord
    from autocache.runtime.session import Session


def forward_of(model: nn.Module) -> tuple[Any, Any]:
    """The `forward` of a model's class, and its own if it has one."""
    return type(model).forward, vars(model).get("forward")


def unreached(parts: Sequence[Part], moments: Sequence[Moment | None], record: StepRecord) -> bool:
    """Whether a denoiser call that was to be acted on came past none of the places."""
    if record.sites or record.whole:
        return False
    return any(
        moment is not None and part.recipe.where.skips and _waited(part, moment)
        for part, moment in zip(parts, moments, strict=True)
    )


def _waited(part: Part, moment: Moment) -> bool:
    """Whether a place was to skip, or its probe never came so that nothing was decided."""
    if moment.decision is None:
        return part.recipe.when.probe is not None
    return not moment.decision.compute


def reasons(session: Session) -> list[str]:
    """In words, what displaced the patch; nothing where it is in its place, or was taken off."""
    model = session.model
    if model is None or not signals.is_heard_by(session):
        return []
    found = []
    if root.session_of(model) is not session:
        found.append("its hooks were taken off, so no call is seen any more")
    if getattr(model, "is_cache_enabled", False):
        found.append("diffusers' own cache was enabled on it too")
    of_class, own = forward_of(model)
    if of_class is not session.forward[0]:
        found.append(f"forward of its class was replaced by {_name(of_class)}")
    if own is not session.forward[1] and not _hooked(model):
        found.append(f"its forward was replaced by {_name(own)}")
    if session.totals.unreached:
        found.append(
            f"{session.totals.unreached} calls came past none of the places the strategy acts on, "
            "so something else ran in place of its modules"
        )
    return found


def _hooked(model: nn.Module) -> bool:
    """Whether accelerate or diffusers replaced `forward`, to move weights around ours."""
    registry = vars(model).get("_diffusers_hook")
    return "_hf_hook" in vars(model) or bool(getattr(registry, "hooks", None))


def _name(function: Any) -> str:
    function = getattr(function, "func", function)
    module, name = (getattr(function, key, "?") for key in ("__module__", "__qualname__"))
    return f"{module}.{name}"
