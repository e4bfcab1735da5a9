"""Probes: the tensors that rules look at. One kind per file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autocache.lazy import look_up

if TYPE_CHECKING:
    from autocache.probe.attention_residual import AttentionResidual
    from autocache.probe.base import Probe
    from autocache.probe.first_blocks import FirstBlocks
    from autocache.probe.named import Named
    from autocache.probe.spectral import SpectralLatent

__all__ = ["AttentionResidual", "FirstBlocks", "Named", "Probe", "SpectralLatent"]

_HOMES = {
    "AttentionResidual": "attention_residual",
    "FirstBlocks": "first_blocks",
    "Named": "named",
    "Probe": "base",
    "SpectralLatent": "spectral",
}


def __getattr__(name: str) -> Any:
    return look_up(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
