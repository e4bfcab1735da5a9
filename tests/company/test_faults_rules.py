"""Rules of one's own that raise, wherever they are called: the error arrives as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from company import eager
from company.faults import Broken
from pipelines.tiny_pipelines import make, run

import autocache
import tiny
from autocache.how import Reuse
from autocache.probe import FirstBlocks
from autocache.runtime.entry import Value
from autocache.runtime.moment import Decision, Moment
from autocache.when import When
from autocache.where import Blocks, Denoiser, Guidance, Submodules, Where

CALLED = ("decide", "learn", "fill", "settle")
WHERE: dict[str, Where] = {
    "blocks": Blocks(),
    "denoiser": Denoiser(),
    "submodules": Submodules(("self", "joint")),
    "guidance": Guidance(),
}
WITH = {"guided": True, "steps": eager.STEPS}


@dataclass
class Trap:
    """Raises at a step, in one of the calls."""

    called: str = ""
    step: int = 0
    error: BaseException | None = None
    sprung: bool = False

    def passed(self, called: str, step: int) -> None:
        if called == self.called and step >= self.step and not self.sprung:
            self.sprung = True
            assert self.error is not None
            raise self.error


@dataclass(frozen=True)
class EveryOther(When):
    trap: Trap
    probe: Any = None

    def decide(self, moment: Moment) -> Decision:
        self.trap.passed("decide", moment.step)
        return Decision(moment.step % 2 == 0, keep=True)

    def learn(self, moment: Moment) -> None:
        self.trap.passed("learn", moment.step)


@dataclass(frozen=True)
class Again(Reuse):
    trap: Trap = field(default_factory=Trap)

    def fill(self, values: Sequence[Value], moment: Moment) -> torch.Tensor:
        self.trap.passed("fill", moment.step)
        return super().fill(values, moment)

    def settle(
        self, values: Sequence[Value], computed: torch.Tensor, moment: Moment
    ) -> torch.Tensor:
        self.trap.passed("settle", moment.step)
        return computed


@pytest.mark.parametrize("kind", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize(("where", "probed"), [*((w, False) for w in WHERE), ("blocks", True)])
@pytest.mark.parametrize("pipeline", ["flux", "wan"])
def test_a_rule_that_raises(pipeline: str, where: str, probed: bool, kind: type) -> None:
    """At any step, in a decision, in learning, or in what stands in: the next generation is that
    of a fresh pipeline, and nothing is held of the broken one."""
    trap, pipe = Trap(), make(pipeline)
    when = EveryOther(trap, FirstBlocks() if probed else None)
    patch = autocache.patch(pipe, when=when, where=WHERE[where], how=Again(trap=trap))
    expected = run(pipe, **WITH)
    actions = [step.action for step in patch.stats().steps]
    assert len(set(actions)) == 2
    sprung = set()
    for called in CALLED:
        for step in (0, 3):
            error = kind("broken")
            trap.__init__(called, step, error)
            arrived = None
            try:
                run(pipe, **WITH)
            except (Broken, KeyboardInterrupt) as caught:
                arrived = caught
            assert arrived is (error if trap.sprung else None)
            assert error.__cause__ is error.__context__ is None
            sprung |= {called} if trap.sprung else set()
            assert patch.stats().bytes_held == 0
            trap.__init__()
            patch.reset()
            assert torch.equal(run(pipe, **WITH), expected)
            assert [step.action for step in patch.stats().steps] == actions
    assert sprung >= {"decide", "learn", "fill"}
    assert ("settle" in sprung) == (where == "denoiser")
    patch.unpatch()
    assert not autocache.is_patched(pipe)


@pytest.mark.parametrize("called", ["decide", "learn"])
def test_a_rule_that_raises_in_a_loop_of_ones_own(called: str) -> None:
    """Nobody says when a generation begins there, and the next one begins at the same time."""
    model, inputs = tiny.build("FluxTransformer2DModel")
    trap = Trap(called, 0, Broken(called))

    def loop() -> list[torch.Tensor]:
        with torch.no_grad():
            return [model(**inputs(time))[0] for time in (1.0, 0.75, 0.5, 0.25)]

    with autocache.patch(model, when=EveryOther(trap), where=Blocks(), how=Reuse()) as patch:
        with pytest.raises(Broken):
            loop()
        assert patch.stats().bytes_held == 0
        made, steps = loop(), patch.stats().steps[-4:]
    with autocache.patch(model, when=EveryOther(Trap()), where=Blocks(), how=Reuse()):
        assert all(map(torch.equal, made, loop()))
    assert [(step.branch, step.step) for step in steps] == [("0", nth) for nth in range(4)]
    assert [step.action for step in steps] == ["computed", "reused"] * 2


@pytest.mark.parametrize("name", ["timesteps", "stepping", "arrange", "accept"])
def test_a_place_of_ones_own_that_raises(name: str) -> None:
    """What it does to the scheduler fails the generation, or the patch, and nothing else."""

    class Meddling(Blocks):
        broken = False

        def __getattribute__(self, attribute: str) -> Any:
            if attribute == name and Meddling.broken:

                def fail(*_: Any) -> None:
                    raise Broken(name)

                return fail
            return super().__getattribute__(attribute)

    pipe = make("flux")
    plain = run(pipe)
    given: dict[str, Any] = {"when": EveryOther(Trap()), "where": Meddling()}
    patch = autocache.patch(pipe, **given)
    expected = run(pipe)
    Meddling.broken = True
    if name == "accept":
        with pytest.raises(Broken):
            autocache.patch(pipe, **given)
    else:
        with pytest.raises(Broken):
            run(pipe)
    Meddling.broken = False
    assert patch.stats().bytes_held == 0
    assert torch.equal(run(pipe), expected)
    autocache.unpatch(pipe)
    assert torch.equal(run(pipe), plain)
