"""A few steps after each of some timesteps."""

from __future__ import annotations

import torch

from autocache.runtime.moment import Call, Moment, State
from autocache.runtime.record import StepRecord
from autocache.runtime.store import Ledger, Store
from autocache.when import Broadcast


def trace(when: Broadcast, times: list[float]) -> str:
    """K computed and kept, C computed, r skipped; k and c where nothing is left in the store."""
    state = State(Store(Ledger()))
    record = StepRecord("toy", 0, "0", 0, 0, 0)
    letters = ""
    for step, time in enumerate(times):
        call = Call(step, None, "0", record, time_of=lambda _, t=time: t)
        moment = Moment(call, state, state)
        decision = when.decide(moment)
        letters += ("K" if decision.keep else "C") if decision.compute else "r"
        if decision.keep:
            state.store.put("site", torch.zeros(1), step)
            state.kept["site"] = True
        if decision.keep or not decision.compute:
            when.learn(moment)
            assert bool(state.kept) == (state.memory["left"] > 0)
            assert len(state.store) == len(state.kept)
    return letters


def test_published_timesteps():
    """Open-Sora's 676, 788 and 864, each for two steps, on a grid that holds them."""
    times = [960.0, 931, 864, 830, 788, 750, 700, 676, 640, 600, 560]
    assert trace(Broadcast((676, 788, 864), 2), times) == "CCKrKrrKrrC"


def test_timesteps_between_the_steps():
    """On another grid a timestep is that of the first step not above it; several are one."""
    assert trace(Broadcast((700.0, 690.0, 300.0), 1), [900.0, 750, 600, 450, 290, 100]) == "CCKrKr"


def test_a_timestep_above_the_first_step():
    """It is passed already when the generation begins: the first step is kept."""
    assert trace(Broadcast((1000.0,), 3), [900.0, 800, 700, 600, 500]) == "KrrrC"
