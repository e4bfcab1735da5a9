"""A strategy is a short recipe of when, where and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autocache.errors import ParameterError
from autocache.runtime.limits import Limits
from autocache.strategy.synonyms import parameter_hint

if TYPE_CHECKING:
    from autocache.how import How
    from autocache.spec.bind import Bound
    from autocache.strategy.tunable import Tunable
    from autocache.when import When
    from autocache.where import Where


@dataclass(frozen=True)
class Recipe:
    """When to skip, where to skip, how to fill the gap, and the limits all that keeps to."""

    when: When
    where: Where
    how: How
    limits: Limits = field(default_factory=Limits)

    def counted_in(self, steps: int) -> Recipe:
        """The same, its numbers of steps being those of a generation of `steps` steps: they mean
        the same share of a generation of another length."""
        return replace(self, when=self.when.counted_in(steps), limits=self.limits.counted_in(steps))


class Strategy(BaseModel):
    """A named choice on the three axes with its parameters: a value to compare, print and write.

    The options below go with every strategy; a default of None is the strategy's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    name: ClassVar[str]
    needs_spec: ClassVar[bool] = True
    """Whether it must know where the model's blocks are."""
    fitted: ClassVar[tuple[str, ...]] = ()
    """Parameters that hold what was fitted to one model, and are worth nothing on another."""
    tunable: ClassVar[Mapping[str, Tunable]] = {}
    """The parameters that a search may vary, with the values worth trying."""

    warmup_steps: int | None = Field(
        None, ge=0, description="first steps that are always computed, counted per generation"
    )
    last_steps: int | None = Field(
        None, ge=0, description="last steps that are always computed, where the total is known"
    )
    max_consecutive_skips: int | None = Field(
        None, ge=1, description="steps in a row that may skip"
    )
    max_skips: int | None = Field(
        None, ge=0, description="steps of a generation that may skip, in each guidance branch"
    )
    step_window: tuple[int, int] | None = Field(
        None, description="first and last step that may skip, both included, counted from 0"
    )
    timestep_window: tuple[float, float] | None = Field(
        None,
        description="timesteps between which steps may skip, both excluded, on the scheduler's "
        "scale (mostly 0 to 1000)",
    )
    blocks: tuple[int, int] | dict[str, tuple[int, int]] | None = Field(
        None,
        description="blocks to act on: [first, end) counted over all stacks, or so for each stack",
    )
    shared_decisions: bool | None = Field(
        None, description="the first guidance branch of a step decides for all of them"
    )

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe | tuple[Recipe, ...]:
        """The parts for one model; `config` is the model's own configuration.

        Raises:
            ParameterError: a parameter does not fit this model.
        """
        raise NotImplementedError

    def recipes(self, bound: Bound, config: Mapping[str, Any]) -> tuple[Recipe, ...]:
        """The recipe or recipes, within the options that go with every strategy.

        Raises:
            ParameterError: a parameter does not fit this model.
        """
        made = self.recipe(bound, config)
        bounded = [self._bounded(one) for one in (made if isinstance(made, tuple) else (made,))]
        # The chosen blocks may be places of only some of the recipes.
        acting = [one for one in bounded if self.blocks is None or _has_places(one, bound)]
        return tuple(acting or bounded)

    def _bounded(self, recipe: Recipe) -> Recipe:
        given = {
            "warmup": self.warmup_steps,
            "last": self.last_steps,
            "max_consecutive_skips": self.max_consecutive_skips,
            "max_skips": self.max_skips,
            "steps": self.step_window,
            "timesteps": self.timestep_window,
            "shared": self.shared_decisions,
        }
        chosen: Any = {key: value for key, value in given.items() if value is not None}
        if self.warmup_steps is not None:
            chosen["warmup_share"] = None
        where = recipe.where if self.blocks is None else recipe.where.within(self.blocks)
        return replace(recipe, where=where, limits=replace(recipe.limits, **chosen))

    def parameters(self) -> dict[str, Any]:
        """The parameters that were set, for records and files."""
        return self.model_dump(mode="json", exclude_unset=True)

    def fitted_parameters(self) -> list[str]:
        """The parameters given here that were fitted to one model."""
        return [name for name in self.fitted if getattr(self, name) is not None]

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.parameters().items())
        return f"{self.name}({inside})" if inside else self.name

    @classmethod
    def create(cls, **parameters: Any) -> Strategy:
        """Raises ParameterError, naming every parameter that is wrong and what was expected."""
        try:
            return cls(**parameters)
        except ValidationError as error:
            problems = [text for _, text in explained(cls, error)]
            raise ParameterError("; ".join(problems)) from None


def _has_places(recipe: Recipe, bound: Bound) -> bool:
    try:
        return bool(recipe.where.claims(bound))
    except ParameterError:
        return False


def explained(
    strategy: type[Strategy], error: ValidationError
) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """What is wrong with the parameters of a strategy: where in them, and in words."""
    for problem in error.errors():
        yield problem["loc"], _explain(strategy, problem)


def _explain(strategy: type[Strategy], problem: Any) -> str:
    parameter = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = parameter_hint(parameter, strategy.model_fields)
        return f"{strategy.name} has no parameter {parameter!r}{near}"
    if problem["type"] == "missing" and parameter in strategy.model_fields:
        wanted = strategy.model_fields[parameter].description
        return f"{strategy.name} needs {parameter!r}: {wanted}"
    if not parameter:
        return f"{strategy.name}: {problem['msg'].removeprefix('Value error, ')}"
    return f"{strategy.name}: {parameter}={problem['input']!r} is wrong: {problem['msg']}"
