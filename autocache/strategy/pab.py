"""Pyramid Attention Broadcast: each kind of attention is reused at its own pace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from autocache.how import Reuse
from autocache.runtime.limits import Limits
from autocache.strategy.published import preset
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import Pair, Range, Tunable
from autocache.when import Broadcast, Interval
from autocache.where import Submodules

if TYPE_CHECKING:
    from autocache.spec.bind import Bound

KINDS = {"spatial": ("self", "joint"), "temporal": ("temporal",), "cross": ("cross",)}
RANGES = {"spatial": 2, "temporal": 4, "cross": 6}
"""As published for Open-Sora; the paper's order of how little each kind changes."""
WINDOW = (100.0, 800.0)


def _range(kind: str) -> Any:
    told = f"steps from one computed {kind} attention to the next; 1 never reuses it"
    return Field(None, ge=1, description=told)


def _window(kind: str) -> Any:
    told = f"timesteps between which {kind} attention is reused, both excluded, mostly 0 to 1000"
    return Field(None, description=told)


class Pab(Strategy):
    """Reuse attention outputs amid the trajectory, each kind of attention at its own pace.

    Without parameters the published ranges of the checkpoint are used, else 2 steps for spatial, 4
    for temporal and 6 for cross attention between timesteps 100 and 800. Kinds that a model lacks
    are left out; joint attention counts as spatial.

    Formula: at step i and timestep t, an attention of range n is reused while lo < t < hi and i mod
    n != 0; else it is computed and kept.

    Memory: s for each reused attention, that is (spatial + temporal + cross) s, for each guidance
    branch; s more for each block of `feed_forward_blocks` while it is reused.

    Choose it: for video models with temporal and cross attention, and under sequence parallelism,
    where a reused attention saves its communication too. It skips attention only: of a model whose
    feed-forward dominates it skips little.

    Source: PAB, arXiv 2408.12588. State is kept per guidance branch; diffusers counts calls across
    branches and gives one the attention of another.
    """

    name: ClassVar[str] = "pab"
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "spatial_range": Range(2, 8, whole=True, usual=2, about="speedup"),
        "spatial_window": Pair(Range(-1.0, 300.0, usual=100.0), Range(400.0, 1001.0, usual=800.0)),
    }

    spatial_range: int | None = _range("self and joint")
    temporal_range: int | None = _range("temporal")
    cross_range: int | None = _range("cross")
    spatial_window: tuple[float, float] | None = _window("self and joint")
    temporal_window: tuple[float, float] | None = _window("temporal")
    cross_window: tuple[float, float] | None = _window("cross")
    feed_forward_timesteps: tuple[float, ...] = Field(
        (), description="timesteps, on the scheduler's scale, at which feed-forward is kept"
    )
    feed_forward_skips: int = Field(
        2, ge=1, description="steps after each of these timesteps that reuse it"
    )
    feed_forward_blocks: tuple[int, int] | None = Field(
        None,
        description="blocks whose feed-forward is reused: [first, end) over all stacks; None: the "
        "first five",
    )

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> tuple[Recipe, ...]:
        published = preset(bound, self.name, config)
        known = dict(published.parameters) if published else {}
        given = self.model_dump(exclude_none=True)
        recipes = []
        for name, kinds in KINDS.items():
            present = name == "spatial" or not bound.attention_kinds.isdisjoint(kinds)
            if present or given.get(f"{name}_range", 1) > 1:
                chosen = {**known, **given}
                when = Interval(chosen.get(f"{name}_range", RANGES[name]), start=0)
                limits = Limits(timesteps=tuple(chosen.get(f"{name}_window", WINDOW)))
                recipes.append(Recipe(when, Submodules(kinds), Reuse(), limits))
        if self.feed_forward_timesteps:
            when = Broadcast(self.feed_forward_timesteps, self.feed_forward_skips)
            blocks = self.feed_forward_blocks or (0, min(5, bound.block_count))
            where = Submodules(feed_forward=True, blocks=blocks)
            recipes.append(Recipe(when, where, Reuse()))
        return tuple(recipes)
