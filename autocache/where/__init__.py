"""Where: what is skipped? One kind of place per file."""

from autocache.where.base import Where
from autocache.where.blocks import Blocks
from autocache.where.submodules import Submodules

__all__ = ["Blocks", "Submodules", "Where"]
