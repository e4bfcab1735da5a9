"""Where: what is skipped? One kind of place per file."""

from .base import Where
from .blocks import Blocks
from .submodules import Submodules

__all__ = ["Blocks", "Submodules", "Where"]
