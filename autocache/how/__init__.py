"""How: what stands in for what was skipped? One rule per file."""

from .base import How
from .reuse import Reuse

__all__ = ["How", "Reuse"]
