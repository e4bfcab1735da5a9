"""The options that go with every strategy, on several of them."""

from __future__ import annotations

import pytest
import torch
from pipelines.tiny_pipelines import make, run
from torch import nn

import autocache
import tiny
from autocache.errors import ParameterError
from toy import SPEC, ToyBlock, ToyDenoiser, added, executed

FLUX = "FluxTransformer2DModel"
STEPS = 12

EAGER = {
    "dit_block": {"step_start": 0, "step_interval": 100},
    "attention": {"step_start": 0, "step_interval": 100, "step_end": 100},
    "teacache": {"coefficients": (1.0, 0.0), "threshold": 1e9, "warmup_steps": 0, "last_steps": 0},
    "easycache": {"threshold": 1e9, "warmup_steps": 0, "last_steps": 0},
    "adastep": {"threshold": 1e9, "max_consecutive_skips": 1000, "last_steps": 0},
}
"""Settings under which a strategy skips whatever it may."""
FIRST = {"easycache": 2, "adastep": 3}
"""The first step that each can skip; step 1 with the others."""


def trace(strategy: str, *, steps: int = STEPS, guided: bool = False, **options) -> dict[str, str]:
    """Per guidance branch a letter per step: C computed, r not."""
    pipe = make("flux")
    with autocache.patched(pipe, strategy, **EAGER[strategy] | options) as patch:
        run(pipe, steps=steps, guided=guided)
        found: dict[str, str] = {}
        for step in patch.stats().steps:
            letter = "C" if step.action == "computed" else "r"
            found[step.branch] = found.get(step.branch, "") + letter
    return found


def one(strategy: str, **options) -> str:
    (drawn,) = trace(strategy, **options).values()
    return drawn


STRATEGIES = pytest.mark.parametrize("strategy", EAGER)


@STRATEGIES
def test_without_limits_everything_is_skipped(strategy):
    """So that what the other tests see is the limits' doing."""
    first = FIRST.get(strategy, 1)
    assert one(strategy) == "C" * first + "r" * (STEPS - first)


@STRATEGIES
def test_warmup_steps(strategy):
    """The first steps are computed, and the next may skip at once."""
    assert one(strategy, warmup_steps=5) == "CCCCC" + "r" * 7
    assert one(strategy, warmup_steps=STEPS) == "C" * STEPS


@STRATEGIES
def test_last_steps(strategy):
    """The last steps of a known total are computed."""
    assert one(strategy, warmup_steps=4, last_steps=3) == "CCCC" + "r" * 5 + "CCC"


@STRATEGIES
def test_max_consecutive_skips(strategy):
    """After so many skips in a row one step is computed."""
    first = FIRST.get(strategy, 1)
    drawn = one(strategy, max_consecutive_skips=2)
    assert drawn == ("C" * first + "rrC" * STEPS)[:STEPS]


@STRATEGIES
def test_max_skips(strategy):
    """After so many skips in all, everything is computed, in each branch."""
    first = FIRST.get(strategy, 1)
    for drawn in trace(strategy, max_skips=3, guided=True).values():
        assert drawn == "C" * first + "rrr" + "C" * (STEPS - first - 3)
    assert one(strategy, max_skips=0) == "C" * STEPS


@STRATEGIES
def test_step_window(strategy):
    """Both ends of the window may skip; nothing outside may."""
    assert one(strategy, step_window=(4, 6)) == "CCCC" + "rrr" + "CCCCC"


@STRATEGIES
def test_timestep_window(strategy):
    """Timesteps are the scheduler's, 0 to 1000, though Flux is given 0 to 1; both ends are out."""
    pipe = make("flux")
    run(pipe, steps=STEPS)
    times = pipe.scheduler.timesteps.tolist()
    assert times[0] > 900
    window = (times[8], times[3])
    assert one(strategy, timestep_window=window) == "CCCC" + "rrrr" + "CCCC"


def test_timestep_window_of_a_bare_loop():
    """Without a scheduler the argument is taken to its scale: Flux's 0..1 and Wan's 0..1000."""
    for name, scale in ((FLUX, 1.0), ("WanTransformer3DModel", 1000.0)):
        model, inputs = tiny.build(name)
        options = EAGER["dit_block"] | {"timestep_window": (350, 750)}
        with autocache.patched(model, "dit_block", **options) as patch, torch.no_grad():
            for step in range(9):
                model(**inputs((0.9 - 0.1 * step) * scale))
            drawn = "".join(s.action[0] for s in patch.stats().steps)
        assert drawn == "ccrrrrccc", name


def test_blocks():
    """A range over all stacks, or one for each; blocks outside are computed in every step."""
    for blocks in ((1, 5), {"transformer_blocks": (1, 3), "single_transformer_blocks": (0, 2)}):
        for strategy, count in (("dit_block", 4), ("teacache", 4), ("attention", 4)):
            model, inputs = tiny.build(FLUX)
            options = EAGER[strategy] | {"blocks": blocks}
            with autocache.patched(model, strategy, **options) as patch, torch.no_grad():
                for step in range(3):
                    model(**inputs(0.9 - 0.1 * step))
                done = patch.stats()
            if strategy == "attention":
                assert done.attention.total - done.attention.run == 2 * count
                assert done.blocks.share == 1
            else:
                assert done.blocks.total - done.blocks.run == 2 * count


def test_blocks_of_the_toy():
    """The blocks themselves count: two of five run in the skipped steps."""
    model = ToyDenoiser(5)
    with autocache.patched(model, "dit_block", spec=SPEC, **EAGER["dit_block"], blocks=(1, 4)):
        added(model, 4)
    assert executed(model, 4) == ["CCCCC", "CrrrC", "CrrrC", "CrrrC"]


@pytest.mark.parametrize("strategy", ["easycache", "adastep", "fewer_steps"])
def test_blocks_where_there_are_none(strategy):
    """What acts on the whole call says so."""
    model, _ = tiny.build(FLUX)
    with pytest.raises(ParameterError, match="blocks: this strategy acts on no blocks"):
        autocache.patch(model, strategy, blocks=(0, 2))
    assert not autocache.is_patched(model)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((2, 2), "no range of the 6 blocks"),
        ((0, 7), "no range of the 6 blocks"),
        ({"transformer_block": (0, 1)}, "did you mean 'transformer_blocks'"),
        ({"transformer_blocks": (0, 4)}, "which has 3 blocks"),
    ],
)
def test_blocks_that_are_not_there(blocks, message):
    """The message has the number there is, or the nearest path."""
    model, _ = tiny.build(FLUX)
    for strategy in ("teacache", "attention", "dit_block", "invariant"):
        with pytest.raises(ParameterError, match=message):
            autocache.patch(model, tiny.choice(strategy), blocks=blocks)
    assert not autocache.is_patched(model)


class Diverging(nn.Module):
    """A denoiser whose second call of a step changes faster than its first."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        self.calls += 1
        return torch.sin(x * 3) * (1 + (5 * (1 - t) if float(x.mean()) > 5 else 0.0))


@pytest.mark.parametrize("shared", [True, False])
def test_shared_decisions(shared):
    """The first branch decides for the second one, or each for itself."""
    model = Diverging()
    torch.manual_seed(0)
    x = torch.rand(2, 8)
    options = {"threshold": 0.4, "warmup_steps": 2, "shared_decisions": shared}
    with autocache.patched(model, "easycache", **options) as patch:
        for step in range(20):
            t = 1 - step / 20
            x = x - 0.1 * (model(x, t) + 0.0 * model(x + 10, t))
        drawn = ["", ""]
        for record in patch.stats().steps:
            drawn[int(record.branch)] += record.action[0]
    assert (drawn[0] == drawn[1]) is shared
    assert "r" in drawn[0][2:]
    assert model.calls == sum(letters.count("c") for letters in drawn)


@pytest.mark.parametrize("strategy", ["teacache", "dit_block", "attention"])
def test_shared_decisions_on_strategies_of_blocks(strategy):
    """Also a strategy that decides per branch can be made to decide once per step."""
    drawn = trace(strategy, guided=True, shared_decisions=True, max_consecutive_skips=3)
    assert len(drawn) == 2
    assert len(set(drawn.values())) == 1
    assert "r" in next(iter(drawn.values()))


@STRATEGIES
def test_dry_run(strategy):
    """The same decisions within the same limits; the plain result; an error for what would skip."""
    plain = run(make("flux"), steps=STEPS)
    limits = {"warmup_steps": 3, "max_consecutive_skips": 2, "last_steps": 1}
    pipe = make("flux")
    with autocache.patched(pipe, strategy, dry_run=True, **EAGER[strategy] | limits) as patch:
        assert torch.equal(run(pipe, steps=STEPS), plain)
        steps = patch.stats().steps
        assert patch.stats().attention.share == 1
    drawn = "".join("C" if s.action == "computed" else "r" for s in steps)
    assert drawn == one(strategy, **limits) == "CCCrrCrrCrrC"
    assert [bool(step.error) for step in steps] == [letter == "r" for letter in drawn]


def test_limits_of_the_toy_say_which_steps_ran():
    """Counted inside the attention itself: two skips at most, none of the last two steps."""
    model = ToyDenoiser(2)
    options = EAGER["attention"] | {"max_skips": 2, "warmup_steps": 2}
    with autocache.patched(model, "attention", spec=SPEC, **options):
        added(model, 6)
    for block in model.blocks:
        assert isinstance(block, ToyBlock)
        assert block.attended == [0, 1, 1, 1, 4, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"max_consecutive_skips": 0}, "max_consecutive_skips=0"),
        ({"step_window": (1,)}, "step_window"),
        ({"warmup_step": 1}, "did you mean 'warmup_steps'"),
    ],
)
def test_wrong_values(options, message):
    """Every strategy checks them alike."""
    model, _ = tiny.build(FLUX)
    for strategy in EAGER:
        with pytest.raises(ParameterError, match=message):
            autocache.patch(model, strategy, **options)
