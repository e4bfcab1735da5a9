"""Settings for every test."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

import autocache
import tiny
from autocache.runtime.signals import listening


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """The models are so small that sharing one among threads only costs time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def _nothing_stays_patched() -> Iterator[None]:
    """What one module leaves patched would be heard in all that come after it in this process."""
    yield
    gc.collect()
    left = listening()
    names = [f"{type(session.model).__name__}: {session.patch.strategy.name}" for session in left]
    for session in left:
        autocache.unpatch(session.model)
    assert not names


@pytest.fixture
def nothing_patched() -> None:
    """Whatever other tests left patched is gone, so that the last unpatch is this test's."""
    gc.collect()
    with autocache.patch(tiny.build("DiTTransformer2DModel")[0], "dit_block"):
        pass
