"""The denoiser that a session belongs to, which it must not keep alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from torch import nn


class Subject:
    """The model and what is called in its place, held weakly.

    The model holds the session. Were it held in return, the two would be a cycle that keeps the
    model and all that is cached until the garbage collector comes by.
    """

    def __init__(self, model: nn.Module, entry: nn.Module) -> None:
        self._model, self._entry = weakref.ref(model), weakref.ref(entry)
        self._end: weakref.finalize | None = None

    @property
    def model(self) -> nn.Module | None:
        """None once it is gone."""
        return self._model()

    @property
    def entry(self) -> nn.Module | None:
        """The model, or what torch.compile made of it; None once it is gone."""
        return self._entry()

    def outlived(self, release: Callable[..., None], *args: object) -> None:
        """Have `release` called when the model is gone. It is kept until then."""
        model = self.model
        if model is not None:
            self._end = weakref.finalize(model, release, *args)
            self._end.atexit = False

    def left(self) -> None:
        """The session has left the model: nothing is to be released any more."""
        if self._end is not None:
            self._end.detach()
