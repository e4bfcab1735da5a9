"""What a strategy adds to a generation of one size: work, time, memory, and patching."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import autocache
from loops import Loop
from scale_model import WIDTH, Size, build
from work import Counted, Work


@dataclass(frozen=True, eq=False)
class Setting:
    """A strategy that computes and skips by turns from the third step on, and what it is to keep at
    most, in bytes, by its formula."""

    strategy: str
    parameters: dict[str, Any]
    formula: Callable[[Size], int]


def _picture(size: Size, width: int = WIDTH) -> int:
    """Bytes of the picture's tokens without the prompt's."""
    return size.batch * size.tokens * width * 4


def _sub_modules(size: Size) -> int:
    """Attention and feed-forward of each block, twice: a block with one stream has its
    feed-forward's inner projection, four times as wide, as a module."""
    double = size.blocks // 3
    return 2 * size.one * (2 * double + 5 * (size.blocks - double))


def _inner_blocks(size: Size) -> int:
    """All blocks but a tenth of each stack at both its ends; the two are skipped as one where that
    is none."""
    double = size.blocks // 3
    outer = round(0.1 * double) or round(0.1 * (size.blocks - double))
    return size.one * (2 if outer else 1)


SETTINGS = (
    Setting("dit_block", {"step_start": 2, "step_interval": 2}, _inner_blocks),
    Setting(
        "teacache",
        {
            "threshold": 1e9,
            "coefficients": [1.0, 0.0],
            "warmup_steps": 2,
            "max_consecutive_skips": 1,
        },
        lambda size: size.one + _picture(size),
    ),
    Setting(
        "fbcache",
        {"threshold": 1e9, "warmup_steps": 2, "max_consecutive_skips": 1},
        lambda size: size.one + _picture(size),
    ),
    Setting(
        "attention", {"step_start": 2, "step_interval": 2}, lambda size: size.blocks * size.one
    ),
    Setting("taylorseer", {"interval": 2, "order": 1, "warmup_steps": 2}, _sub_modules),
    Setting("auto", {"speedup": 2}, lambda size: 3 * _picture(size, width=4)),
)


def row(size: Size, setting: Setting, rounds: int) -> dict[str, Any]:
    """Work and time of a computed and of a skipped step, bytes kept, and the work of patching.

    Times are medians of ratios to the plain step in the same round.
    """
    loop = build(size)
    patching = _work_of_patching(loop, setting)
    with autocache.patched(loop.pipeline, setting.strategy, **setting.parameters) as patch:
        loop.run(size.steps)
        with Counted() as counted:
            seen: list[Work] = []
            loop.run(size.steps, lambda: seen.append(counted.work))
        stats = patch.stats()
        skips = [step.skips for step in stats.steps[-size.steps :]]
    found: dict[str, Any] = {
        "bytes": stats.bytes_peak,
        "formula": setting.formula(size),
        "patch_instructions": patching.instructions,
    }
    added = [Work(*(b - a for a, b in zip(*pair, strict=True))) for pair in _pairs(seen)]
    ratios = _ratios(loop, setting, size.steps, skips, rounds) if rounds else {}
    for kind, skipped in (("computed", False), ("skipped", True)):
        found[kind] = {**_usual(added, skips, skipped)._asdict(), **ratios.get(kind, {})}
    return found


def _usual(added: list[Work], skips: list[bool], skipped: bool) -> Work:
    """What most steps of a kind add: the first ones settle what the others go by, and the last one
    keeps nothing."""
    pairs = list(zip(added, skips, strict=True))[3:-1]
    return min(statistics.multimode(one for one, other in pairs if other is skipped))


def _pairs(seen: list[Any]) -> list[tuple[Any, Any]]:
    return list(itertools.pairwise(seen))


def _work_of_patching(loop: Loop, setting: Setting) -> Work:
    """Of the second patch: the first one reads the specs."""
    for _ in range(2):
        with Counted() as counted:
            patch = autocache.patch(loop.pipeline, setting.strategy, **setting.parameters)
        patch.unpatch()
    return counted.work


def _ratios(
    loop: Loop, setting: Setting, steps: int, skips: list[bool], rounds: int
) -> dict[str, dict[str, float]]:
    """Time of a computed and of a skipped step as ratios to the plain step."""
    ratios: dict[str, list[float]] = {"computed": [], "skipped": []}
    for turn in range(rounds + 1):
        plain = statistics.median(seconds(loop, steps))
        with autocache.patched(loop.pipeline, setting.strategy, **setting.parameters):
            own = seconds(loop, steps)
        for kind, skipped in (("computed", False), ("skipped", True)):
            # The first steps of a generation settle what the others go by.
            took = [s for s, one in list(zip(own, skips, strict=True))[2:] if one is skipped]
            if turn and took:
                ratios[kind].append(statistics.median(took) / plain)
    return {kind: {"ratio": statistics.median(each)} for kind, each in ratios.items() if each}


def seconds(loop: Loop, steps: int) -> list[float]:
    """How long each step of a generation took."""
    marks: list[float] = []
    loop.run(steps, lambda: marks.append(time.perf_counter()))
    return [end - start for start, end in _pairs(marks)]
