"""What the store accounts for, guards against and refuses."""

from __future__ import annotations

import pytest
import torch

from autocache.errors import MemoryLimitError
from autocache.runtime.ledger import Ledger
from autocache.runtime.sizes import parse_bytes
from autocache.runtime.store import Piece, Store


def test_bytes_are_accounted_for():
    """Held and peak bytes follow what is put, replaced, dropped and cleared."""
    ledger = Ledger()
    store = Store(ledger)
    store.put("a", torch.zeros(256), 0)
    store.put("b", torch.zeros(256, dtype=torch.float16), 0)
    assert (ledger.held, ledger.peak) == (1536, 1536)
    store.put("a", torch.zeros(128), 1)
    assert (ledger.held, ledger.peak) == (1024, 1536)
    store.clear()
    assert ledger.held == 0
    assert store.get("a") == ()


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 5])
def test_the_last_values_are_kept(keep):
    """`keep` values stay, oldest first, with their steps; until there are as many, all do."""
    ledger = Ledger()
    store = Store(ledger)
    for step in range(7):
        store.put("a", torch.full((2,), float(step)), step, keep=keep)
        steps = list(range(max(0, step + 1 - keep), step + 1))
        assert [(v.step, v.tensor[0].item()) for v in store.get("a")] == [(s, s) for s in steps]
        assert ledger.held == 8 * len(steps)


@pytest.mark.parametrize(
    "live", [torch.zeros(3), torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, device="meta")]
)
def test_what_does_not_fit_is_a_miss(live):
    """Another shape, dtype or device is never served."""
    store = Store(Ledger())
    store.put("a", torch.zeros(2), 0)
    assert store.get("a", like=live) == ()
    assert len(store) == 0


def test_a_tensor_written_to_is_a_miss_and_cloned_from_then_on():
    """In-place writes by the model are noticed, once, and cannot happen to the next value."""
    store = Store(Ledger())
    shared = torch.zeros(2)
    store.put("a", shared, 0)
    shared += 1
    assert store.get("a") == ()
    store.put("a", shared, 1)
    shared += 1
    assert store.get("a")[0].tensor.tolist() == [1, 1]


def test_inference_tensors_are_cloned():
    """Tensors without a version counter are copied, since a write could not be noticed."""
    store = Store(Ledger())
    with torch.inference_mode():
        shared = torch.zeros(2)
        store.put("a", shared, 0)
        shared += 1
        assert store.get("a")[0].tensor.tolist() == [0, 0]


def test_limit_is_refused_with_what_would_fit():
    """Beyond the limit nothing is kept, and the message says how much is needed."""
    ledger = Ledger(1000)
    store = Store(ledger)
    store.put("a", torch.zeros(100), 0)
    with pytest.raises(MemoryLimitError, match=r"7\.812 KiB per guidance branch"):
        store.put_all("b", [Piece(("b", 0), torch.zeros(190))], 0, expected=10)
    assert ledger.held == 400


@pytest.mark.parametrize(
    ("text", "count"), [("2GiB", 2**31), ("1.5 MB", 1_500_000), (4096, 4096), (None, None)]
)
def test_limits_are_read(text, count):
    """Limits come as numbers, or as text with a unit."""
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["banana", "2GX", "-1MiB", "0", ""])
def test_bad_limits_are_refused(text):
    """Anything else is an error, not no limit."""
    with pytest.raises(ValueError, match=r"limit|float"):
        parse_bytes(text)
