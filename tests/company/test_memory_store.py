"""Random puts, gets, drops and writes over guidance branches, limits and ways to fit them."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocache.errors import MemoryLimitError
from autocache.runtime.encodings.base import kept_alive
from autocache.runtime.ledger import Ledger
from autocache.runtime.store import Piece, Store
from devices import DEVICE

RULES = ("measured", "reference")
PLACES = ("a", "b", "c", "d")
PIECES = {"a": 1, "b": 2, "c": 1, "d": 3}
KEEP = {"measured": 1, "reference": 2, "a": 1, "b": 2, "c": 3, "d": 1}
WAYS = ((), ("fewer",), ("bf16",), ("bf16", "fewer"), ("int8", "fewer"), ("bf16", "fp8", "fewer"))

_names = st.sampled_from(RULES + PLACES)
_stores = st.integers(0, 3)
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), _stores, _names, st.booleans()),
    st.tuples(st.just("put"), _stores, _names, st.booleans()),
    st.tuples(st.just("put"), _stores, _names, st.booleans()),
    st.tuples(st.just("get"), _stores, _names),
    st.tuples(st.just("drop"), _stores, _names),
    st.tuples(st.just("clear"), _stores),
    st.tuples(st.just("write"), _stores, _names),
)


def _shape(name: str, part: int) -> tuple[int, ...]:
    """Every part has a size of its own, so that nothing fits by chance."""
    return (1, 6 + 2 * part, 8 if name in RULES else 4 * (1 + PLACES.index(name)))


def _key(name: str, part: int) -> Any:
    return name if name in RULES else (name, part)


@dataclass
class Expected:
    """What was put under a name in one store and not taken back since."""

    values: list[tuple[int, list[torch.Tensor]]] = field(default_factory=list)
    latest: list[torch.Tensor] = field(default_factory=list)
    """The tensors themselves, which their owner may write to."""
    written_to: bool = False


class Model:
    """A ledger with two guidance branches beside each other and two elsewhere, and what was put."""

    def __init__(self, limit: int, ways: tuple[str, ...]) -> None:
        self.ledger = Ledger(limit, ways)
        self.stores = [Store(self.ledger, group) for group in ("x", "x", "y", None)]
        self.expected: dict[tuple[int, str], Expected] = {}
        self.step = 0

    def put(self, nth: int, name: str, owned: bool) -> None:
        self.step += 1
        count, keep = PIECES.get(name, 1), KEEP[name]
        random = torch.Generator().manual_seed(self.step)
        made = [torch.randn(_shape(name, part), generator=random) for part in range(count)]
        tensors = [tensor.to(DEVICE) for tensor in made]
        pieces = [Piece(_key(name, part), t, keep, owned) for part, t in enumerate(tensors)]
        store, exact = self.stores[nth], name in RULES
        before = self.expected.pop((nth, name), Expected())
        kept = store.put_all(name, pieces, self.step, exact=exact, expected=len(PLACES))
        if kept:
            copies = [tensor.clone() for tensor in tensors]
            before.values = [*before.values, (self.step, copies)][-keep:]
            before.latest = [] if owned else tensors
            self.expected[nth, name] = before
        else:
            assert store.refuses(name)

    def write(self, nth: int, name: str) -> None:
        """The model writes to what it returned before."""
        known = self.expected.get((nth, name))
        if known is None:
            return
        for tensor in known.latest:
            tensor.add_(1)
            known.written_to = True

    def check(self) -> None:
        held = [
            part
            for store in self.stores
            for entries in store._entries.values()
            for values in entries.values()
            for entry in values
            for part in entry.held.parts
        ]
        storages = {part.untyped_storage().data_ptr(): kept_alive(part) for part in held}
        ledger, budget = self.ledger, self.ledger.budget
        assert budget is not None
        assert ledger.held == sum(kept_alive(part) for part in held) == sum(storages.values())
        assert ledger.held == sum(place.held for place in ledger.places.values())
        assert ledger.held <= ledger.peak <= budget.limit
        assert ledger.held <= budget.promised <= budget.limit
        for (nth, name), known in list(self.expected.items()):
            self.check_values(nth, name, known)

    def check_values(self, nth: int, name: str, known: Expected) -> None:
        store = self.stores[nth]
        keys = [_key(name, part) for part in range(PIECES.get(name, 1))]
        held = [name in store._entries and key in store._entries[name] for key in keys]
        assert all(held) or not any(held), "half a place was kept"
        if not all(held):
            # Nothing is lost without being told, but what is worth nothing any more.
            assert store.refuses(name) or known.written_to
            del self.expected[nth, name]


def _bound(exact: torch.Tensor, form: str) -> torch.Tensor:
    """What may be lost, with all that it went through on its way to that form."""
    largest = exact.abs().amax(1, keepdim=True).expand_as(exact)
    lost = exact.abs() * 2**-8
    return {
        "as it is": torch.zeros_like(exact),
        "bf16": lost,
        "int8": lost + largest / 250,
        "fp8": lost + torch.maximum(exact.abs() * 2**-3.9, largest / 400000),
    }[form]


def _looked_at(model: Model, nth: int, name: str) -> None:
    """Looking is what notices that someone wrote to a value; whatever is there is what was put."""
    store, known = model.stores[nth], model.expected.get((nth, name))
    found = [store.get(_key(name, part)) for part in range(PIECES.get(name, 1))]
    if known is None:
        assert not any(found)
        return
    if not all(found):
        # It was dropped, told now or because it was written to.
        model.expected.pop((nth, name))
        assert not any(store.has(_key(name, part)) for part in range(PIECES.get(name, 1)))
        return
    form = store.claims[name].encoding.name
    assert form == "as it is" or name in PLACES
    for part, values in enumerate(found):
        assert [value.step for value in values] == [step for step, _ in known.values]
        for value, (_, tensors) in zip(values, known.values, strict=True):
            gap = (value.tensor - tensors[part]).abs()
            assert bool((gap <= _bound(tensors[part], form)).all())


@settings(max_examples=500, deadline=None)
@given(st.integers(200, 6000), st.sampled_from(WAYS), st.lists(OPERATIONS, min_size=5, max_size=40))
def test_the_limit_holds_and_nothing_is_lost_untold(limit: int, ways: Any, operations: Any) -> None:
    """Held bytes are those of the tensors there are, and never more than allowed; what was kept is
    there as it was put, within the bound of its form, or is said not to be."""
    model = Model(limit, ways)
    for kind, nth, *rest in operations:
        if kind == "put":
            with contextlib.suppress(*(() if "fewer" in ways else (MemoryLimitError,))):
                model.put(nth, *rest)
        elif kind == "get":
            _looked_at(model, nth, *rest)
        elif kind == "write":
            model.write(nth, *rest)
        elif kind == "drop":
            model.stores[nth].drop(*rest)
            model.expected.pop((nth, *rest), None)
        else:
            model.stores[nth].clear()
            model.expected = {at: it for at, it in model.expected.items() if at[0] != nth}
        model.check()
    for store in model.stores:
        store.clear()
    budget = model.ledger.budget
    assert budget is not None
    assert model.ledger.held == budget.promised == 0
    assert not budget.short
    # And all of it starts anew: the first thing that fits is held as it is.
    assert model.stores[0].put_all("a", [Piece(("a", 0), torch.randn(1, 1, 1))], 0)
    assert model.stores[0].claims["a"].encoding.name == "as it is"


def _fill(store: Store, names: Iterator[str] | tuple[str, ...], size: int = 100) -> list[bool]:
    return [
        store.put_all(name, [Piece((name, 0), torch.zeros(size))], 0, expected=len(PLACES))
        for name in names
    ]


def test_guidance_branches_share_a_limit_evenly() -> None:
    """Where there is room for four places of 400 bytes, two branches keep the same two each; where
    there is room for one, neither keeps any."""
    ledger = Ledger(1700, ("fewer",))
    first, second = Store(ledger, "x"), Store(ledger, "x")
    assert _fill(first, PLACES) == [True] * 4
    assert _fill(second, PLACES) == [True, True, False, False]
    for store in (first, second):
        assert [store.refuses(name) for name in PLACES] == [False, False, True, True]
    # Another part of the strategy, or another request, gets what is left.
    assert _fill(Store(ledger, "y"), PLACES) == [False] * 4
    third = Store(ledger, "x")
    assert _fill(third, PLACES) == [True, False, False, False]
    assert [store.refuses("b") for store in (first, second)] == [True, True]
    single = Ledger(700, ("fewer",))
    first, second = Store(single, "x"), Store(single, "x")
    assert _fill(first, PLACES) == [True, False, False, False]
    assert _fill(second, PLACES) == [False] * 4
    assert single.held == 0
    assert single.budget is not None
    with pytest.raises(MemoryLimitError, match="2 guidance branches"):
        single.budget.check()


def test_a_rule_comes_before_the_places_it_decides_on() -> None:
    """What a rule compares takes the room of a place; without room for it nothing is kept."""
    ledger = Ledger(900, ("fewer",))
    store = Store(ledger)
    assert _fill(store, PLACES[:2]) == [True, True]
    assert store.put("reference", torch.zeros(100), 0)
    assert [store.refuses(name) for name in PLACES[:2]] == [False, True]
    assert not store.put("other", torch.zeros(200), 0)
    assert store.useless
    assert ledger.held == 0
    assert _fill(store, PLACES[:1], size=1) == [False]
    store.clear()
    assert _fill(store, PLACES[:2]) == [True, True]


def test_what_a_rule_compares_is_never_rounded() -> None:
    """Also where places are held as int8."""
    ledger = Ledger(900, ("int8",))
    store, numbers = Store(ledger), torch.randn(1, 10, 10)
    store.put("reference", numbers, 0)
    for name in PLACES[:3]:
        store.put_all(name, [Piece((name, 0), numbers)], 0, expected=3)
    assert {store.claims[name].encoding.name for name in PLACES[:3]} == {"int8"}
    (value,) = store.get("reference")
    assert torch.equal(value.tensor, numbers)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("way", ["bf16", "int8", "fp8"])
def test_encoded_values_are_nobody_elses(way: str, inference: bool) -> None:
    """The model may write to what it returned, and to what it was handed: neither is noticed as a
    change, nor is one."""
    with torch.inference_mode(inference):
        store = Store(Ledger(130, (way,)))
        shared = torch.linspace(-1, 1, 48).reshape(1, 12, 4).clone()
        assert store.put_all("a", [Piece(("a", 0), shared)], 0)
        (before,) = store.get(("a", 0))
        expected = before.tensor.clone()
        shared.zero_()
        before.tensor.zero_()
        (after,) = store.get(("a", 0))
        assert torch.equal(after.tensor, expected)
        assert store.get(("a", 0), like=torch.zeros(1, 12, 5)) == ()
        assert len(store) == 0


def test_a_view_keeps_no_more_alive_than_it_shows() -> None:
    """Half of a tensor is copied out of it, and no graph of it is kept."""
    ledger = Ledger()
    store = Store(ledger)
    whole = torch.zeros(2, 100, requires_grad=True) * 1
    store.put("a", whole[:1], 0)
    assert ledger.held == 400
    (value,) = store.get("a")
    assert value.tensor.untyped_storage().nbytes() == 400
    assert value.tensor.grad_fn is None


def test_threads_keep_the_books_right() -> None:
    """Several at once never hold more than the limit together, and nothing when they are done."""
    ledger = Ledger(8000, ("bf16", "fewer"))
    wrong: list[Any] = []
    start = threading.Barrier(4, timeout=30)

    def work(number: int) -> None:
        store = Store(ledger, number)
        start.wait()
        try:
            for step in range(150):
                for name in PLACES:
                    tensor = torch.full((1, 8, 4 + number), float(step))
                    if store.put_all(name, [Piece((name, 0), tensor, 2)], step, expected=4):
                        values = store.get((name, 0))
                        wrong.extend(v for v in values if not bool((v.tensor == v.step).all()))
                if ledger.held > 8000:
                    wrong.append(ledger.held)
                if step % 10 == 9:
                    store.clear()
            store.clear()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    gc.collect()
    assert wrong == []
    assert (ledger.held, ledger.budget and ledger.budget.promised) == (0, 0)
    assert ledger.peak <= 8000
