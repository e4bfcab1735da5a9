"""The protocol of a measurement that a rule decides on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound


class Probe(Protocol):
    """An immutable description of a tensor to measure in every denoiser call."""

    def sites(self, bound: Bound, part: Part) -> list[tuple[nn.Module, Site]]:
        """The modules to intercept so that `moment.probe` is there when it is decided on.

        Raises:
            ParameterError: the model has nothing of the kind.
        """
        ...
