"""What finds no room on the device is held on the host: nothing else changes.

On the device that the tests run on, or on an emulated one, which makes a copy in a stream only when
that is waited for: what is used too early is not a number.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import autocache
import emulated
import tiny
from autocache.runtime.encodings import PLAIN
from autocache.runtime.encodings.host import HeldOnHost
from autocache.runtime.ledger import Ledger
from autocache.runtime.store import Piece, Store
from devices import DEVICE

STEPS = 8
CHOICES: dict[str, dict[str, Any]] = {
    "attention": {"step_start": 0, "step_interval": 2},
    "dit_block": {"step_start": 0, "step_interval": 2},
    "taylorseer": {"interval": 2, "order": 1, "warmup_steps": 1},
    "teacache": {"coefficients": (1.0, 0.0), "threshold": 1e9, "max_consecutive_skips": 1},
}


@pytest.fixture
def device() -> torch.device:
    return DEVICE if DEVICE.type != "cpu" else emulated.device()


def _loop(device: torch.device, strategy: str, **options: Any) -> tuple[torch.Tensor, Any]:
    model, inputs = tiny.build("FluxTransformer2DModel")
    model.to(device)
    outputs = []
    with autocache.patch(model, strategy, **CHOICES[strategy], **options) as patch:
        for step in range(STEPS):
            given = {
                name: value.to(device) if isinstance(value, torch.Tensor) else value
                for name, value in inputs(1 - step / STEPS).items()
            }
            with torch.no_grad():
                outputs.append(model(**given)[0].cpu())
        return torch.cat(outputs), patch.stats()


@pytest.mark.parametrize("ways", [None, ("host",), ("bf16", "host")], ids=str)
@pytest.mark.parametrize("strategy", CHOICES)
def test_on_the_host_nothing_else_changes(device: torch.device, strategy: str, ways: Any) -> None:
    """As much is skipped and the very same comes out as without a limit, or within bf16 of it."""
    expected, whole = _loop(device, strategy)
    limit = int(whole.bytes_peak * 0.3)
    made, stats = _loop(device, strategy, memory_limit=limit, memory_fit=ways)
    assert bool(expected.isfinite().all())
    if ways and "bf16" in ways:
        torch.testing.assert_close(made, expected, rtol=0, atol=0.05)
    else:
        assert torch.equal(made, expected)
    assert (stats.blocks, stats.attention) == (whole.blocks, whole.attention)
    assert stats.bytes_peak <= limit
    assert stats.memory.away_peak > 0
    away = [place for place in stats.memory.places if place.device == "cpu"]
    assert away
    assert "on the host" in str(stats)
    assert stats.to_dict()["bytes"]["away_peak"] == stats.memory.away_peak


def test_what_was_moved_may_be_written_to(device: torch.device) -> None:
    """The model goes on writing to its tensors while the copy is still to be made."""
    store = Store(Ledger(64, ("host",)))
    shared = torch.ones(2, 3, 4, device=device)
    assert store.put_all("a", [Piece(("a", 0), shared)], 0)
    shared.zero_()
    (value,) = store.get(("a", 0))
    assert torch.equal(value.tensor.cpu(), torch.ones(2, 3, 4))


def test_the_next_place_is_fetched_ahead_where_there_is_room(device: torch.device) -> None:
    """It counts as held on the device meanwhile, and no more once it was used."""
    ledger = Ledger(200, ("host",))
    store = Store(ledger)
    numbers = [torch.full((2, 3, 4), float(nth), device=device) for nth in range(4)]
    for nth, name in enumerate("abcd"):
        store.put_all(name, [Piece((name, 0), numbers[nth])], 0, expected=4)
    # Two of 96 bytes are on the device, and there is no room to fetch the others ahead.
    assert (ledger.held, ledger.away) == (192, 192)
    for nth, name in enumerate("abcd"):
        (value,) = store.get((name, 0))
        assert torch.equal(value.tensor.cpu(), numbers[nth].cpu())
        assert ledger.held == 192
    # Without the first there is: the third is on its way as the second is used.
    store.drop("a")
    store.get(("b", 0))
    assert (ledger.held, ledger.away) == (192, 192)
    (value,) = store.get(("c", 0))
    assert torch.equal(value.tensor.cpu(), numbers[2].cpu())
    assert ledger.held <= 200
    store.clear()
    assert ledger.budget is not None
    assert (ledger.held, ledger.away, ledger.budget.promised) == (0, 0, 0)


def test_it_comes_back_again_and_again(device: torch.device) -> None:
    """Fetched ahead or not, also while the copy to the host is still to be made."""
    tensor = torch.randn(2, 16, 8).to(device)
    held = HeldOnHost(PLAIN, tensor)
    for ahead in (True, False, True):
        if ahead:
            held.fetch()
        back = held.decode()
        assert back.device == tensor.device
        assert torch.equal(back.cpu(), tensor.cpu())


def test_on_the_cpu_the_host_is_no_way() -> None:
    """It is where everything is: what does not fit is computed, or an error without that."""
    ledger = Ledger(100, ("host", "fewer"))
    store = Store(ledger)
    pieces = [Piece(("a", 0), torch.zeros(20)), Piece(("a", 1), torch.zeros(20))]
    assert not store.put_all("a", pieces, 0)
    assert (ledger.held, ledger.away) == (0, 0)
