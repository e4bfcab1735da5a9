"""A strategy is a short recipe of when, where and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from autocache.errors import ParameterError, nearest

if TYPE_CHECKING:
    from autocache.how import How
    from autocache.spec.bind import Bound
    from autocache.spec.schema import Preset
    from autocache.when import When
    from autocache.where import Where


@dataclass(frozen=True)
class Recipe:
    """When to skip, where to skip, and how to fill the gap."""

    when: When
    where: Where
    how: How


class Strategy(BaseModel):
    """A named choice on the three axes with its parameters: a value to compare, print and write."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        """The parts for one model; `config` is the model's own configuration.

        Raises:
            ParameterError: a parameter does not fit this model.
        """
        raise NotImplementedError

    def parameters(self) -> dict[str, Any]:
        """The parameters that were set, for records and files."""
        return self.model_dump(mode="json", exclude_unset=True)

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.parameters().items())
        return f"{self.name}({inside})" if inside else self.name

    @classmethod
    def create(cls, **parameters: Any) -> Strategy:
        """Raises ParameterError, naming every parameter that is wrong and what was expected."""
        try:
            return cls(**parameters)
        except ValidationError as error:
            raise ParameterError(
                "; ".join(_explain(cls, problem) for problem in error.errors())
            ) from None


def _explain(strategy: type[Strategy], problem: Any) -> str:
    parameter = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = nearest(parameter, strategy.model_fields)
        return f"{strategy.name} has no parameter {parameter!r}{near}"
    if not parameter:
        return f"{strategy.name}: {problem['msg']}"
    return f"{strategy.name}: {parameter}={problem['input']!r} is wrong: {problem['msg']}"


def preset(bound: Bound, strategy: str, config: Mapping[str, Any]) -> Preset | None:
    """The published preset of the checkpoint a model was loaded from."""
    from autocache.spec.schema import choose

    found = choose(bound.spec.presets.get(strategy, []), config, config.get("_name_or_path"))
    return found[0] if found else None
