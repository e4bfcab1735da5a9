"""Several strategies at work on one model, each in its own places."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autocache.errors import PatchError

if TYPE_CHECKING:
    from autocache.spec.bind import Bound
    from autocache.strategy.recipe import Recipe, Strategy


@dataclass(frozen=True)
class Composition:
    """Strategies that touch different places, or of which one is exact."""

    members: tuple[Strategy, ...]

    @property
    def name(self) -> str:
        return "+".join(member.name for member in self.members)

    @property
    def needs_spec(self) -> bool:
        return any(member.needs_spec for member in self.members)

    def parameters(self) -> dict[str, Any]:
        """The parameters that were set, by strategy."""
        return {member.name: member.parameters() for member in self.members}

    def fitted_parameters(self) -> list[str]:
        """The parameters that were fitted to one model, of all members."""
        return [name for member in self.members for name in member.fitted_parameters()]

    def recipes(self, bound: Bound, config: Mapping[str, Any]) -> tuple[Recipe, ...]:
        """The recipes of all members.

        Raises:
            ParameterError: a parameter does not fit this model.
            PatchError: two members may skip the same module, or both choose the timesteps.
        """
        made = [(member.name, member.recipes(bound, config)) for member in self.members]
        for (one, its), (other, theirs) in itertools.combinations(made, 2):
            if _arranges(its) and _arranges(theirs):
                raise PatchError(
                    f"{one} and {other} cannot be combined: both choose the timesteps of the "
                    "generation; leave one out"
                )
            shared = _claimed(its, bound) & _claimed(theirs, bound)
            if shared:
                raise PatchError(
                    f"{one} and {other} cannot be combined: both may skip "
                    f"{_name(bound, shared)}, and what one keeps would hold what the other filled "
                    "in; choose different blocks for them, or leave one out"
                )
        return tuple(recipe for _, recipes in made for recipe in recipes)

    def __str__(self) -> str:
        return "+".join(map(str, self.members))


def _arranges(recipes: tuple[Recipe, ...]) -> bool:
    return any(recipe.where.arranges for recipe in recipes)


def _claimed(recipes: tuple[Recipe, ...], bound: Bound) -> set[int]:
    """Every module that may be skipped, and what is inside it; nothing where that is exact."""
    return {
        id(inner)
        for recipe in recipes
        if not recipe.where.exact
        for module in recipe.where.claims(bound)
        for inner in module.modules()
    }


def _name(bound: Bound, modules: set[int]) -> str:
    names = (name for name, module in bound.model.named_modules() if id(module) in modules)
    return next(names, "") or f"the whole {type(bound.model).__name__}"
