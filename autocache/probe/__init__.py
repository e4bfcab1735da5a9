"""Probes: the tensors that rules look at. One kind per file."""

from autocache.probe.base import Probe
from autocache.probe.first_blocks import FirstBlocks
from autocache.probe.named import Named
from autocache.probe.spectral import SpectralLatent

__all__ = ["FirstBlocks", "Named", "Probe", "SpectralLatent"]
