"""A memory limit is kept to at any moment, and what finds no room is computed."""

from __future__ import annotations

import copy
import gc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines.tiny_pipelines import make, run
from torch import nn

import autocache
import tiny
from autocache.activation_grammar import parse
from autocache.errors import MemoryLimitError, ParameterError
from autocache.tuning.profile import Profile
from devices import DEVICE

FLUX = "FluxTransformer2DModel"
STEPS = 8
# Eight steps are fewer than the defaults warm up for, and noise moves more than a picture.
CHOICES: dict[str, dict[str, Any]] = {
    "adacache": {"codebook": [(1e9, 2)]},
    "adastep": {"threshold": 100.0, "warmup_steps": 1},
    "attention": {"step_start": 0, "step_interval": 2},
    "auto": {"speedup": 2.0},
    "customcache": {
        "coefficients": (1.0, 0.0),
        "threshold": 1e9,
        "max_consecutive_skips": 1,
    },
    "dbcache": {"threshold": 1e9, "warmup_steps": 1, "fn": 1, "max_consecutive_skips": 1},
    "dicache": {"threshold": 1e9, "warmup_steps": 2, "max_consecutive_skips": 1},
    "dit_block": {"step_start": 0, "step_interval": 2},
    "easycache": {"threshold": 1e9, "warmup_steps": 2, "max_consecutive_skips": 1},
    "fbcache": {"threshold": 1e9, "max_consecutive_skips": 1},
    "fora": {"interval": 2},
    "magcache": {"ratios": [1.0] * STEPS, "warmup_steps": 1, "threshold": 9.0},
    "pab": {"spatial_window": (-1.0, 1001.0), "cross_window": (-1.0, 1001.0)},
    "schedule": {"steps": range(0, STEPS, 2), "total": STEPS},
    "taylorseer": {"interval": 2, "order": 1, "warmup_steps": 1},
    "teacache": {"coefficients": (1.0, 0.0), "threshold": 1e9, "max_consecutive_skips": 1},
}
SUBMODULES = ("attention", "fora", "pab", "taylorseer")
SPANS = ("adacache", "customcache", "dbcache", "dit_block", "fbcache", "magcache", "teacache")
WHOLE = ("adastep", "auto", "easycache", "schedule")
SECOND = {"single_transformer_blocks": (0, 3)}
"""The second stack, which is skipped by itself where the first one is not to its end."""


class Runs:
    """A tiny Flux, its loop, and independent counts of what was really run."""

    def __init__(self) -> None:
        self.model, self.inputs = tiny.build(FLUX)
        self.ran: Counter[str] = Counter()
        for name, module in self.model.named_modules():
            if name.count(".") == 1 or name.endswith((".attn", ".ff", ".proj_mlp")):
                module.register_forward_pre_hook(self._counts(name))

    def _counts(self, name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self.ran[name] += 1

        return hook

    def loop(self, each: Callable[[], None] = lambda: None) -> torch.Tensor:
        outputs = []
        self.ran.clear()
        with torch.no_grad():
            for step in range(STEPS):
                given = self.inputs(1 - step / STEPS)
                given["hidden_states"] = given["hidden_states"] * (1 - 0.05 * step)
                outputs.append(self.model(**given)[0])
                each()
        return torch.cat(outputs)

    def patched(self, name: str, **options: Any) -> autocache.Patch:
        return autocache.patch(self.model, name, **CHOICES[name], **options)

    def wanted(self, name: str, **options: Any) -> tuple[torch.Tensor, int, Counter[str]]:
        """Without a limit: what comes out, the most that was kept, and what ran."""
        with self.patched(name, **options) as patch:
            drawn = self.loop()
            return drawn, patch.stats().bytes_peak, Counter(self.ran)


@pytest.fixture(scope="module")
def runs() -> Runs:
    return Runs()


def test_every_strategy_is_here() -> None:
    """But for those that keep nothing, need guidance, levels or a grid, or are exact."""
    elsewhere = {"deepcache", "fastercache", "fewer_steps", "invariant", "seacache"}
    assert set(CHOICES) == {info.name for info in autocache.strategies()} - elsewhere
    assert set(CHOICES) == {*SUBMODULES, *SPANS, *WHOLE, "dicache"}


@pytest.mark.parametrize("name", CHOICES)
def test_from_nothing_to_everything(runs: Runs, name: str) -> None:
    """At no limit more is held than allowed; what more room gives is more skipping, and all that is
    wanted gives what there is without a limit. Too little is an error that says how much is."""
    plain, before = runs.loop(), Counter(runs.ran)
    drawn, peak, ran = runs.wanted(name)
    assert ran.total() < before.total()
    counts, refused = [], []
    for share in (1.0, 0.6, 0.3, 0.02):
        limit = max(1, int(peak * share))
        for ways in (None, ("int8", "fewer")):
            with runs.patched(name, memory_limit=limit, memory_fit=ways) as patch:
                try:
                    made = runs.loop()
                except MemoryLimitError:
                    made = None
                stats = patch.stats()
                assert stats.bytes_peak <= limit
                if made is None:
                    refused.append(share)
                    continue
                assert stats.bytes_peak > 0
                assert ran.total() <= runs.ran.total() < before.total()
                if share == 1:
                    assert torch.equal(made, drawn)
                    assert runs.ran == ran
                if ways is None:
                    counts.append(runs.ran.total())
    assert counts == sorted(counts)
    assert 1.0 not in refused
    with runs.patched(name, memory_limit=1), pytest.raises(MemoryLimitError, match="raise the"):
        runs.loop()
    assert torch.equal(runs.loop(), plain)


@pytest.mark.parametrize("blocks", [1, 3, 4])
@pytest.mark.parametrize("name", SUBMODULES)
def test_modules_without_room_are_computed(runs: Runs, name: str, blocks: int) -> None:
    """Room for what the first blocks keep is the same as caching in those blocks only."""
    drawn, peak, ran = runs.wanted(name, blocks=(0, blocks))
    with runs.patched(name, memory_limit=peak) as patch:
        assert torch.equal(runs.loop(), drawn)
        assert runs.ran == ran
        assert patch.stats().bytes_peak == peak


@pytest.mark.parametrize("name", SPANS)
def test_spans_without_room_are_computed(runs: Runs, name: str) -> None:
    """Room for what is skipped of the first of two stacks is the same as skipping that only."""
    first = {"transformer_blocks": (0, 2)}
    drawn, peak, ran = runs.wanted(name, blocks=first)
    with runs.patched(name, memory_limit=peak, blocks={**first, **SECOND}) as patch:
        assert torch.equal(runs.loop(), drawn)
        assert runs.ran == ran
        assert patch.stats().bytes_peak == peak


@pytest.mark.parametrize("name", [one for one in SPANS if one != "dbcache"])
def test_room_for_one_stack_is_room_for_two_that_are_skipped_as_one(runs: Runs, name: str) -> None:
    """They have one residual together."""
    drawn, peak, ran = runs.wanted(name)
    _, one, _ = runs.wanted(name, blocks={"transformer_blocks": (0, 3)})
    assert one == peak
    with runs.patched(name, memory_limit=one) as patch:
        assert torch.equal(runs.loop(), drawn)
        assert runs.ran == ran
        assert patch.stats().bytes_peak == peak


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("attention", {}),
        ("taylorseer", {}),
        ("dit_block", {"blocks": {"transformer_blocks": (0, 2), **SECOND}}),
        ("teacache", {"blocks": {"transformer_blocks": (0, 2), **SECOND}}),
    ],
)
def test_there_are_no_other_tensors(runs: Runs, name: str, where: dict[str, Any]) -> None:
    """All tensors that are alive beside the model's and what it is given or returns take no more
    than the limit, in the middle of the steps; and the books say as much."""
    _, peak, _ = runs.wanted(name, **where)
    limit = int(peak * 0.75)
    # What a step is given and returns is alive beside it.
    beside = sum(map(_size, runs.inputs(1.0).values())) + STEPS * _output_size(runs)
    steps, seen = iter(range(STEPS)), []
    baseline = _alive()
    with runs.patched(name, memory_limit=limit, **where) as patch:

        def look() -> None:
            if next(steps) in (2, 3, 6):
                seen.append((_alive() - baseline, patch.stats().bytes_held))

        runs.loop(look)
    assert len(seen) == 3
    for alive, held in seen:
        assert 0 < held <= limit
        assert held <= alive <= held + beside


def _alive() -> int:
    """Bytes of all tensors there are."""
    found = [
        item
        for item in gc.get_objects()
        # Those that torch keeps of what was traced under vmap have no storage.
        if type(item) in (torch.Tensor, nn.Parameter)
        and not torch._C._functorch.is_batchedtensor(item)
    ]
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in found}
    return sum(storages.values())


def _size(value: Any) -> int:
    return value.untyped_storage().nbytes() if isinstance(value, torch.Tensor) else 0


def _output_size(runs: Runs) -> int:
    with torch.no_grad():
        return _size(runs.model(**runs.inputs(1.0))[0])


class Rounded:
    """The model itself, whose attention returns in every second step what it last computed, rounded
    by plain arithmetic."""

    def __init__(self, runs: Runs, rounding: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.runs, self.rounding, self.step = runs, rounding, 0
        self.last: dict[nn.Module, Any] = {}
        modules = [m for n, m in runs.model.named_modules() if n.endswith(".attn")]
        self.handles = [module.register_forward_hook(self._hook) for module in modules]

    def _hook(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self.step % 2 == 0:
            self.last[module] = output
            return output
        kept = self.last[module]
        return tuple(map(self.rounding, kept)) if isinstance(kept, tuple) else self.rounding(kept)

    def loop(self) -> torch.Tensor:
        def on() -> None:
            self.step += 1

        try:
            return self.runs.loop(on)
        finally:
            for handle in self.handles:
                handle.remove()


def _int8(tensor: torch.Tensor) -> torch.Tensor:
    scale = tensor.abs().amax(1, keepdim=True) / 127
    return (tensor / scale).round() * scale


ROUNDINGS: dict[str, tuple[float, Callable[[torch.Tensor], torch.Tensor]]] = {
    "bf16": (0.5, lambda tensor: tensor.bfloat16().float()),
    "int8": (0.4, _int8),
}


@pytest.mark.parametrize("way", ROUNDINGS)
def test_less_precision_is_no_more_than_that(runs: Runs, way: str) -> None:
    """Held in fewer bits everything is skipped as without a limit, and what stands in is rounded
    once: not again at every step."""
    share, rounding = ROUNDINGS[way]
    drawn, peak, ran = runs.wanted("attention")
    expected = Rounded(runs, rounding).loop()
    with runs.patched("attention", memory_limit=int(peak * share), memory_fit=way) as patch:
        made = runs.loop()
        assert runs.ran == ran
        assert {place.form for place in patch.stats().memory.places} == {way}
        assert patch.stats().bytes_peak <= peak * share
    assert not torch.equal(made, drawn)
    # Dividing and multiplying by the scale may round the last bit another way.
    torch.testing.assert_close(made, expected, rtol=0, atol=0 if way == "bf16" else 1e-5)


@pytest.mark.parametrize("share", [0.95, 0.7, 0.4])
@pytest.mark.parametrize("strategy", ["attention", "taylorseer"])
def test_one_limit_for_branches_and_experts(strategy: str, share: float) -> None:
    """Two experts with two guidance branches each share it, and both branches always do the same:
    what is off in one of them only would be magnified by the guidance."""
    pipe = make("wan")
    whole = autocache.patch(pipe, strategy, **CHOICES[strategy])
    run(pipe, guided=True)
    limit = int(whole.stats().bytes_peak * share)
    patch = autocache.patch(pipe, strategy, **CHOICES[strategy], memory_limit=limit)
    run(pipe, guided=True)
    stats = patch.stats()
    assert 0 < stats.bytes_peak <= limit
    assert 0 < _filled(stats) < _filled(whole.stats())
    branches: dict[str, list[Any]] = {}
    for record in stats.steps:
        branches.setdefault(record.branch, []).append((record.step, record.sites))
    (one, other) = branches.values()
    assert len(one) == STEPS
    assert one == other


def _filled(stats: autocache.RunStats) -> int:
    """Places that were filled in, counted over all steps."""
    return sum(done != "computed" for step in stats.steps for done in step.sites.values())


def test_one_branch_alone_is_not_cached() -> None:
    """Where only one of two guidance branches would fit, none is: an error says so."""
    pipe = make("wan")
    whole = autocache.patch(pipe, "dit_block", **CHOICES["dit_block"])
    drawn = run(pipe, guided=True)
    limit = int(whole.stats().bytes_peak * 0.7)
    with (
        autocache.patch(pipe, "dit_block", **CHOICES["dit_block"], memory_limit=limit),
        pytest.raises(
            MemoryLimitError, match=r"in 2 guidance branches.*enough is memory_fit='bf16'"
        ),
    ):
        run(pipe, guided=True)
    options = {"memory_limit": limit, "memory_fit": "bf16"}
    with autocache.patch(pipe, "dit_block", **CHOICES["dit_block"], **options) as patch:
        torch.testing.assert_close(run(pipe, guided=True), drawn, rtol=0, atol=0.05)
        assert patch.stats().blocks == whole.stats().blocks


def test_what_did_not_fit_is_of_no_generation_any_more() -> None:
    """In a loop of one's own, whose next generation begins at the time of the call that failed."""
    model, inputs = tiny.build("WanTransformer3DModel")
    first, later = inputs(1000.0), inputs(500.0)
    options = CHOICES["attention"]
    with torch.no_grad(), autocache.patch(model, "attention", **options) as patch:
        model(**first)
        model(**later)
        stats = patch.stats()
        places = len(stats.steps[-1].sites)
        room = stats.bytes_peak // places
    # For one place in one guidance branch: with a second beside it nothing can be kept.
    with (
        torch.no_grad(),
        autocache.patch(model, "attention", **options, memory_limit=room) as patch,
    ):
        model(**first)
        with pytest.raises(MemoryLimitError, match="in 2 guidance branches"):
            model(**first)
        assert patch.stats().bytes_held == 0
        model(**first)
        model(**later)
        (computed, reused) = patch.stats().steps[-2:]
    assert (computed.branch, computed.step) == ("0", 0)
    assert (reused.branch, reused.step) == ("0", 1)
    assert sum(done != "computed" for done in reused.sites.values()) == 1


def test_what_was_chosen_is_said_once(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    """In one line: what is wanted, in which form it is held, and how many places go without."""
    _, peak, _ = runs.wanted("attention")
    with caplog.at_level("INFO", "autocache"):
        with runs.patched("attention", memory_limit=peak // 2):
            runs.loop()
            runs.loop()
        with runs.patched("attention", memory_limit=peak // 2, memory_fit="bf16"):
            runs.loop()
        with runs.patched("attention", memory_limit=peak):
            runs.loop()
    limited, rounded, enough = [r for r in caplog.records if "memory_limit" in r.message]
    assert limited.levelname == "WARNING"
    assert limited.message == (
        "memory_limit=10.5 KiB: about 21 KiB per guidance branch to keep; held as it is; "
        "3 of 6 places keep anything, the others are computed"
    )
    assert (rounded.levelname, enough.levelname) == ("INFO", "INFO")
    assert rounded.message.endswith("held bf16")
    assert enough.message.endswith("held as it is")


def test_the_error_says_what_would_fit(runs: Runs) -> None:
    """In numbers, and what it names does."""
    _, peak, _ = runs.wanted("attention")
    tight = runs.patched("attention", memory_limit=peak // 2, memory_fit=())
    with pytest.raises(MemoryLimitError) as raised:
        runs.loop()
    tight.unpatch()
    said = str(raised.value)
    assert "memory_limit is 10.5 KiB" in said
    assert "about 21 KiB per guidance branch (10.5 KiB as bf16, 6.5" in said
    assert "the smallest part of it takes 3.5 KiB" in said
    assert "enough is memory_fit='bf16' or memory_fit='fewer' for a part of it" in said
    for way in ("bf16", "fewer"):
        with runs.patched("attention", memory_limit=peak // 2, memory_fit=way) as patch:
            runs.loop()
            assert patch.stats().attention.share < 1


@pytest.mark.parametrize("dry", [False, True])
def test_statistics_say_what_is_where(runs: Runs, dry: bool) -> None:
    """Bytes held now and at most, by place, with form and device, as an object, a dict and text."""
    with runs.patched("attention", memory_limit="8KiB", keep=True, dry_run=dry) as patch:
        runs.loop()
        memory = patch.stats().memory
        assert memory.held == patch.stats().bytes_held == 2 * 3584
        assert [place.name for place in memory.places if place.held] == [
            "transformer_blocks.0.attn",
            "transformer_blocks.1.attn",
        ]
        for place in memory.places:
            assert (place.denoiser, place.form, place.device) == (FLUX, "as it is", str(DEVICE))
            assert place.held == place.peak == 3584
        as_dict = patch.stats().to_dict()["bytes"]
        assert (as_dict["held"], as_dict["peak"], as_dict["limit"]) == (7168, 7168, 8192)
        assert as_dict["places"][0]["name"] == "transformer_blocks.0.attn"
        text = str(patch.stats())
        assert "7 KiB, peak 7 KiB of 8 KiB allowed" in text
        assert (
            f"2 places, most in transformer_blocks.0.attn: peak 3.5 KiB, as it is, on {DEVICE}"
            in text
        )
        patch.reset()
        assert patch.stats().memory.places == ()
        assert patch.stats().bytes_peak == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory_fit": "fewer"}, "there is none; give one"),
        ({"memory_limit": "1GiB", "memory_fit": "bf61"}, "did you mean 'bf16'"),
        ({"memory_limit": "1GiB", "memory_fit": ("fewer", "bf16")}, "name it last"),
        ({"memory_limit": "1GiB", "memory_fit": ("bf16", "bf16")}, "twice"),
        ({"memory_limit": "1GiB", "memory_fit": 3}, "no way to fit"),
        ({"memory_limit": "many", "memory_fit": "fewer"}, "memory_limit='many'"),
        ({"memory_limit": float("nan")}, "memory_limit=nan"),
        ({"memory_limit": True}, "memory_limit=True"),
    ],
)
def test_options_that_make_no_sense_are_refused(runs: Runs, options: Any, said: str) -> None:
    """And leave the model as it was."""
    with pytest.raises(ParameterError, match=said):
        runs.patched("attention", **options)
    assert not autocache.is_patched(runs.model)


def test_a_copy_has_a_limit_of_its_own() -> None:
    """The denoisers of a copied pipeline share its limit with each other, not with the original."""
    pipe = make("wan")
    patch = autocache.patch(
        pipe, "attention", **CHOICES["attention"], memory_limit="64KiB", keep=True
    )
    run(pipe, guided=True)
    copied = copy.deepcopy(pipe)
    assert autocache.stats(copied).memory.held == 0 < patch.stats().memory.held
    assert autocache.stats(copied).memory.limit == 2**16
    run(copied, guided=True)
    assert autocache.stats(copied).bytes_peak == patch.stats().bytes_peak <= 2**16


def test_the_environment_and_profiles_take_the_same_options(tmp_path: Path) -> None:
    """What is given goes before what a profile says."""
    text = "dit_block:memory_limit=1GiB,memory_fit=[bf16,fewer],keep=true"
    asked = parse(text)
    assert asked.strategy == "dit_block"
    assert asked.parameters == {
        "memory_limit": "1GiB",
        "memory_fit": ["bf16", "fewer"],
        "keep": True,
    }
    two = parse("dit_block:keep=true+fewer_steps:indices=[0,2],memory_limit=1MiB")
    assert two.strategy == [("dit_block", {}), ("fewer_steps", {"indices": [0, 2]})]
    assert two.parameters == {"keep": True, "memory_limit": "1MiB"}
    pipe = make("flux")
    options = {"memory_limit": "2KiB", "memory_fit": "int8", "keep": True}
    made = {"strategy": "dit_block", "parameters": {**CHOICES["dit_block"], **options}}
    file = Profile.model_validate(made).write(tmp_path / "small.yaml")
    with autocache.patch(pipe, file) as patch:
        run(pipe)
        memory = patch.stats().memory
        assert memory.limit == 2048
        assert 0 < memory.held <= memory.peak <= 2048
        assert {place.form for place in memory.places} == {"int8"}
    with autocache.patch(pipe, file, memory_limit="1MiB") as patch:
        run(pipe)
        assert {place.form for place in patch.stats().memory.places} == {"as it is"}
    with autocache.patch(pipe, "fewer_steps", indices=(0, 2)) as patch:
        run(pipe)
        assert patch.stats().passes == 2
