"""Where: what is skipped? One kind of place per file."""

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
