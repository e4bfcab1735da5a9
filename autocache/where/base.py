"""The protocol of a choice of places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.session import Session
    from autocache.spec.bind import Bound


class Where(Protocol):
    """An immutable choice of places in an architecture."""

    def sites(self, bound: Bound, session: Session) -> list[tuple[nn.Module, Site]]:
        """The modules to intercept, each with what acts on its calls.

        Raises:
            ParameterError: the model has no such places.
        """
        ...
