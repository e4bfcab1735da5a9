"""A profile: a strategy with its parameters, what it was made for, and what was measured of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, PrivateAttr, Tag, ValidationError

from autocache import strategy as strategies
from autocache.activation_grammar import FOR_ALL
from autocache.errors import ProfileError, SpecError, UnknownStrategyError
from autocache.spec.document import MAX_PROBLEMS, Document, parse, read
from autocache.spec.explain import explain
from autocache.spec.facts import Facts, Location, Name, Number
from autocache.strategy.composition import Composition
from autocache.strategy.recipe import explained
from autocache.tuning.made_for import MadeFor

if TYPE_CHECKING:
    from autocache.strategy.recipe import Strategy


def _or_none(given: Any) -> Any:
    return {} if given is None else given


Parameters = Annotated[dict[Name, Any], BeforeValidator(_or_none)]
"""A key with nothing after it, as where all of them are commented out, holds none."""


class Member(Facts):
    """One of several strategies at work together."""

    strategy: Name
    parameters: Parameters = Field({})


def _kind(given: Any) -> str:
    return "several" if isinstance(given, list) else "one"


def _member(given: Any) -> Any:
    return {"strategy": given} if isinstance(given, str) else given


Members = Annotated[list[Annotated[Member, BeforeValidator(_member)]], Field(min_length=1)]
Choice = Annotated[
    Annotated[Name, Tag("one")] | Annotated[Members, Tag("several")], Discriminator(_kind)
]


class Quality(Facts):
    """PSNR in dB against the run without cache, per held-out image."""

    mean: float
    p10: float = Field(description="The 10th percentile.")


class Measured(Facts):
    """What was measured, on inputs and seeds that nothing was chosen by."""

    compute: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Share of the denoisers' multiplications that was run."
    )
    time_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Seconds without cache for each second with it."
    )
    machine: Name | None = Field(None, description="Where the time was taken, in words.")
    psnr: Quality | None = None
    inputs: Annotated[int, Field(ge=1)] | None = Field(None, description="How many were held out.")
    seeds: list[int] = Field([], description="Of their noise; of a range the first and the last.")
    seconds: Number | None = Field(None, description="What finding it took.")


class Profile(Facts):
    """What to do with a model, as a file. A value; `autocache.patch` takes it in place of a name.

    `parameters` are those of the strategy, and keyword arguments of `autocache.patch`; beside
    several strategies only the latter, as each has its own.
    """

    schema_version: Literal[1] = Field(1, description="Version of this format.")
    strategy: Choice
    parameters: Parameters = Field({})
    made_for: MadeFor | None = Field(None, description="Without it nothing is compared.")
    measured: Measured | None = None

    _file: Path | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        # The file is where it lies and no part of it.
        return isinstance(other, Profile) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    @property
    def file(self) -> Path | None:
        """The file it was read from or last written to."""
        return self._file

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of `autocache.patch` among the parameters."""
        return {key: value for key, value in self.parameters.items() if key in FOR_ALL}

    def members(self) -> list[tuple[str, dict[str, Any]]]:
        """Each strategy's name with its own parameters."""
        own = {key: value for key, value in self.parameters.items() if key not in FOR_ALL}
        if isinstance(self.strategy, str):
            return [(self.strategy, own)]
        return [(one.strategy, one.parameters) for one in self.strategy]

    def created(self, parameters: Mapping[str, Any] | None = None) -> Strategy | Composition:
        """The strategy; `parameters` go before those of the (first) strategy's own.

        Raises:
            UnknownStrategyError: no strategy has that name.
            ParameterError: a parameter is unknown or out of range.
        """
        (name, own), *others = self.members()
        first = strategies.get(name).create(**(own | dict(parameters or {})))
        if not others:
            return first
        return Composition((first, *(strategies.get(n).create(**its) for n, its in others)))

    @classmethod
    def of(cls, strategy: Strategy | Composition, **facts: Any) -> Profile:
        """The profile of a live strategy; `facts` are `made_for` and `measured`.

        Raises:
            ProfileError: the strategy has no name to find it by, as one made from parts.
        """
        if isinstance(strategy, Composition):
            named = [{"strategy": _name(s), "parameters": s.parameters()} for s in strategy.members]
            return cls.model_validate({"strategy": named, **facts})
        return cls(strategy=_name(strategy), parameters=strategy.parameters(), **facts)

    @classmethod
    def read(cls, path: str | Path) -> Profile:
        """The profile in a YAML file.

        Raises:
            ProfileError: for anything wrong with it, a line `file:line:column: message` each.
        """
        try:
            document = read(Path(path).expanduser())
        except SpecError as error:
            raise ProfileError(str(error)) from None
        profile = cls._checked(document)
        profile._file = document.path
        return profile

    @classmethod
    def parse(cls, text: str, name: str = "profile.yaml") -> Profile:
        """As `read`, of text that is in no file; `name` stands for the file in errors."""
        try:
            document = parse(text, Path(name))
        except SpecError as error:
            raise ProfileError(str(error)) from None
        return cls._checked(document)

    @classmethod
    def _checked(cls, document: Document) -> Profile:
        try:
            profile = cls.model_validate(document.value)
        except ValidationError as error:
            raise _error([*document.problems, *explain(error, document, cls)]) from None
        problems = [*document.problems, *_misfits(profile, document)]
        if problems:
            raise _error(problems)
        return profile

    def text(self) -> str:
        """The file's content, with a comment at the top that says what it is."""
        from autocache.tuning.profile_yaml import text

        return text(self)

    def write(self, path: str | Path) -> Path:
        """Write it to a file, in one piece: whoever reads meanwhile finds the former one.

        Raises:
            ProfileError: the file cannot be written.
        """
        target = Path(path).expanduser()
        beside = target.with_name(f".{target.name}.part")
        try:
            beside.write_text(self.text(), encoding="utf-8")
            beside.replace(target)
        except OSError as error:
            raise ProfileError(f"{target}: cannot be written: {error.strerror}") from None
        self._file = target
        return target


def _name(strategy: Strategy) -> str:
    if strategy.name not in strategies.names():
        raise ProfileError(
            f"{strategy} has no name that a profile could give it; only strategies of "
            "autocache.strategies() can be in one"
        )
    return strategy.name


def _misfits(profile: Profile, document: Document) -> Iterator[str]:
    """What the strategies themselves have against the parameters."""
    several = not isinstance(profile.strategy, str)
    for nth, (name, parameters) in enumerate(profile.members()):
        at: Location = ("strategy", nth) if several else ()
        # A name stands in the list itself, or under a key of a mapping in it.
        named = at if (*at, "strategy") not in document.marks else (*at, "strategy")
        try:
            strategy = strategies.get(name)
        except UnknownStrategyError as error:
            yield f"{document.position(named)}: {error}"
            continue
        for place, text in _refused(strategy, parameters):
            yield f"{document.position((*at, 'parameters', *place))}: {text}"
    beside = [key for key, value in profile.parameters.items() if key not in FOR_ALL]
    for key in beside if several else ():
        yield (
            f"{document.position(('parameters', key))}: beside several strategies there may be "
            f"only {', '.join(FOR_ALL)}, not {key!r}; a strategy's own go with it in the list"
        )


def _refused(
    strategy: type[Strategy], parameters: Mapping[str, Any]
) -> Iterator[tuple[Location, str]]:
    own = {key: value for key, value in parameters.items() if key not in FOR_ALL}
    for key in parameters.keys() - own:
        yield (key,), f"{key!r} goes for all strategies; put it beside the list"
    try:
        strategy(**own)
    except ValidationError as error:
        yield from explained(strategy, error)


def _error(problems: list[str]) -> ProfileError:
    # Rubbish has no end of problems, and they may quote it.
    lines = [line if len(line) <= 1000 else line[:1000] + "..." for line in problems]
    return ProfileError("\n".join(lines[:MAX_PROBLEMS]))
