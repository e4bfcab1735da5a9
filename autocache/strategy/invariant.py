"""Invariant: run what does not depend on time once per generation, losslessly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from autocache.how import Reuse
from autocache.strategy.recipe import Recipe, Strategy
from autocache.when import Unchanged
from autocache.where import Invariant as Modules

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class Invariant(Strategy):
    """Run text embedders and text keys and values once per generation, at no loss at all.

    A module named by the spec is left out while it is called on the very same tensors, or parts of
    them, at the same version, as when it last ran in this guidance branch. What is not certain is
    computed, and a module whose inputs are made anew each time is soon left alone.

    Formula: y = f(x) of the last run, where x is the same object, or the same part of it, with no
    write since, and so are the weights of f; else y = f(x).

    Memory: the outputs of the modules, per token of the text: for Wan s_text for the embedder and
    3 B s_text for keys (before and after their norm) and values, for each guidance branch.

    Choose it: always where the spec lists such modules, together with any other strategy, as in
    ["teacache", "invariant"]. Not under inference_mode, with gradients or in training mode, where
    all is computed; inside blocks that are compiled with fullgraph=True it breaks the graph.

    Source: our own; what changes between steps is checked at run time and never assumed.
    """

    name: ClassVar[str] = "invariant"

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        return Recipe(when=Unchanged(), where=Modules(), how=Reuse())
