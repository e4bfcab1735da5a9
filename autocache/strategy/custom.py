"""A strategy put together from the parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from autocache.how import How, Reuse
from autocache.strategy.recipe import Recipe, Strategy
from autocache.when import When
from autocache.where import Blocks, Where

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class Custom(Strategy):
    """Any choice of when, where and how, published or not."""

    name: ClassVar[str] = "custom"

    when: When = Field(description="the rule that decides, of `autocache.when`")
    where: Where = Field(Blocks(), description="the places, of `autocache.where`")
    how: How = Field(Reuse(), description="what stands in, of `autocache.how`")

    @property
    def needs_spec(self) -> bool:  # type: ignore[override]
        """Whether one of the parts must know what is inside the model."""
        return self.where.needs_spec or self.when.probe is not None

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        return Recipe(when=self.when, where=self.where, how=self.how)

    def parameters(self) -> dict[str, Any]:
        parts = {"when": repr(self.when), "where": repr(self.where), "how": repr(self.how)}
        given = self.model_dump(mode="json", exclude_unset=True, exclude=set(parts))
        return parts | given
