"""Probes: the tensors that rules look at. One kind per file."""

from autocache.probe.attention_residual import AttentionResidual
from autocache.probe.base import Probe
from autocache.probe.first_blocks import FirstBlocks
from autocache.probe.named import Named
from autocache.probe.spectral import SpectralLatent

__all__ = ["AttentionResidual", "FirstBlocks", "Named", "Probe", "SpectralLatent"]
