"""A method of a class, wrapped for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import wrapt
from wrapt import WrapperNotOutermostError


class Wrapping:
    """Wraps a method until it is taken off. Where another library has wrapped the same method
    since, it stays beneath that, and does nothing any more."""

    def __init__(self, owner: type, method: str, wrapper: Callable[..., Any]) -> None:
        self._owner, self._method = owner, method
        self._wrapper: Callable[..., Any] | None = wrapper
        self._handle = wrapt.wrap_function_wrapper(owner, method, self)

    def __call__(self, wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
        wrapper = self._wrapper
        if wrapper is None:
            return wrapped(*args, **kwargs)
        return wrapper(wrapped, instance, args, kwargs)

    def off(self) -> None:
        self._wrapper = None
        with contextlib.suppress(WrapperNotOutermostError):
            wrapt.unwrap_object(self._owner, self._method, self._handle, missing_ok=True)
