"""Where: what is skipped? One kind of place per file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autocache.lazy import look_up

if TYPE_CHECKING:
    from autocache.where.base import Around, BlockRanges, Where
    from autocache.where.blocks import Blocks
    from autocache.where.deep_features import DeepFeatures
    from autocache.where.denoiser import Denoiser
    from autocache.where.guidance import GRIDS, Guidance, GuidanceStyle
    from autocache.where.invariant import Invariant
    from autocache.where.submodules import EVERY_KIND, Submodules
    from autocache.where.timesteps import Timesteps

__all__ = [
    "EVERY_KIND",
    "GRIDS",
    "Around",
    "BlockRanges",
    "Blocks",
    "DeepFeatures",
    "Denoiser",
    "Guidance",
    "GuidanceStyle",
    "Invariant",
    "Submodules",
    "Timesteps",
    "Where",
]

_HOMES = {
    "Around": "base",
    "BlockRanges": "base",
    "Blocks": "blocks",
    "DeepFeatures": "deep_features",
    "Denoiser": "denoiser",
    "EVERY_KIND": "submodules",
    "GRIDS": "guidance",
    "Guidance": "guidance",
    "GuidanceStyle": "guidance",
    "Invariant": "invariant",
    "Submodules": "submodules",
    "Timesteps": "timesteps",
    "Where": "base",
}


def __getattr__(name: str) -> Any:
    return look_up(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
