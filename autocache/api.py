"""patch and unpatch: look up the spec, plan the strategy, install it on the live model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

from autocache import log
from autocache import strategy as _strategies
from autocache.choice import Chosen, choose
from autocache.errors import PatchError
from autocache.memory import ledger
from autocache.planning import install, plan, sessions_of, take_off, tell_apart
from autocache.runtime.parallelism import given_group
from autocache.runtime.session import Session
from autocache.spec import registry
from autocache.strategy.composition import Composition
from autocache.strategy.recipe import Strategy
from autocache.targets import denoisers, describe

if TYPE_CHECKING:
    from autocache.how import How
    from autocache.run_stats import RunStats
    from autocache.spec.registry import SpecInfo
    from autocache.spec.schema import Spec
    from autocache.strategy import StrategyInfo
    from autocache.tuning.profile import Profile
    from autocache.when import When
    from autocache.where import Where

Choice: TypeAlias = "str | Path | Strategy | Profile | tuple[str, Mapping[str, Any]]"
"""A strategy: its name, an object, its name with parameters, or a profile or its file."""


class Patch:
    """A strategy at work on one or more denoisers. As a context manager it unpatches on leaving."""

    def __init__(self, chosen: Chosen, sessions: list[Session]) -> None:
        self._chosen = chosen
        self._sessions = sessions

    @property
    def strategy(self) -> Strategy | Composition:
        """The strategy with its parameters."""
        return self._chosen.strategy

    @property
    def profile(self) -> str | None:
        """The profile it was made from: its file, and what was given in place of its own."""
        return self._chosen.label

    @property
    def spec(self) -> Spec:
        """The spec of the (first) denoiser."""
        return self._sessions[0].spec

    @property
    def denoisers(self) -> list[nn.Module]:
        """The patched models, those that are still there."""
        models = (session.model for session in self._sessions)
        return [model for model in models if model is not None]

    @property
    def enabled(self) -> bool:
        """Whether calls are acted on. Setting it, also between two steps, drops what was cached."""
        return self._sessions[0].enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        for session in self._sessions:
            if session.enabled != value:
                session.drop()
            session.enabled = value

    def reset(self) -> None:
        """Drop everything cached and recorded; the next call starts a generation."""
        for session in self._sessions:
            session.forget()
            session.ledger.restart()
            session.totals.clear()

    def stats(self) -> RunStats:
        """What was computed and skipped so far."""
        from autocache.run_stats import collect

        return collect(self._sessions)

    def unpatch(self) -> None:
        """Take everything off again. Doing so twice is allowed.

        Raises:
            ConcurrencyError: a call of a denoiser is under way, in another thread for instance.
        """
        take_off(self._sessions)

    def __deepcopy__(self, memo: dict[int, Any]) -> Patch:
        # The sessions of the models that are copied along put themselves in.
        copied = memo[id(self)] = Patch(self._chosen, [])
        return copied

    def adopt(self, session: Session) -> None:
        """Take in the session of a model that was copied."""
        self._sessions.append(session)

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *raised: object) -> None:
        self.unpatch()

    def __repr__(self) -> str:
        models = ", ".join(type(model).__name__ for model in self.denoisers)
        source = f" from {self.profile}" if self.profile else ""
        return f"<autocache {self.strategy}{source} on {models}>"


def patch(
    target: Any,
    strategy: Choice | Sequence[Choice] | None = None,
    *,
    when: When | None = None,
    where: Where | None = None,
    how: How | None = None,
    spec: str | Path | Spec | None = None,
    enabled: bool = True,
    dry_run: bool = False,
    memory_limit: int | str | None = None,
    memory_fit: str | Sequence[str] | None = None,
    keep: bool = False,
    group: Any = None,
    **params: Any,
) -> Patch:
    """Instrument a live model with a caching strategy. All or nothing: on an error it is as it was.

    Args:
        target: a diffusers pipeline (every denoiser in it is patched) or a bare model. One that is
            patched already gets the new strategy instead.
        strategy: its name, see `autocache.strategies()`, a strategy object, a pair of a name and a
            mapping of parameters, or a profile or its YAML file. Several in a list act together,
            each in its own places. Without one it is "auto".
        when, where, how: a strategy of one's own, from the parts in `autocache.when` and so on;
            `where` defaults to all blocks and `how` to reuse.
        spec: a YAML spec file, or the name of a spec, where the model's class has none of its own;
            "auto" drafts one in memory then, proves it on a tiny model, and says in the log what
            it rests on.
        enabled: False installs everything and acts on nothing until `Patch.enabled` is set.
        dry_run: compute everything, and record what would have been skipped and at what error.
        memory_limit: most bytes to keep at any moment, such as `2**30` or `"1GiB"`: for all
            denoisers, guidance branches and requests of this patch together.
        memory_fit: the ways to keep to `memory_limit` in the order they are tried: "host" (moved
            there, where the device is not the host), "bf16", "fp8", "int8" (less precision, for all
            that is kept), and last "fewer" (what finds no room is computed). Without "fewer", what
            does not fit is an error. The default is `("host", "fewer")`, which cost no quality.
        keep: True leaves what is cached after a generation, to look at, until the next one begins;
            else it is freed.
        group: the processes that work on one generation together, as a `torch.distributed` process
            group or a mesh of one dimension, where an engine of one's own spreads it over them:
            what a rule measures is then the mean over all of them. diffusers' context parallelism,
            FSDP2 and tensor parallelism are found without.
        **params: the strategy's parameters; in a list, those of the first. They go before those of
            a profile, as do the keywords above where they are not at their defaults.

    Raises:
        UnknownStrategyError: no strategy has that name.
        ParameterError: a parameter is unknown, out of range, or does not fit the model.
        DoesNotApplyError: no denoiser of the target has what the strategy needs; where only some
            lack it, they run as they are, and the log says so.
        UnknownModelError: the target is no model, or no spec describes it.
        ProfileError: the profile's file cannot be read or is malformed.
        ProfileMismatchError: the profile was made for something else and cannot be adapted.
        SpecError: the spec cannot be read or does not fit the model.
        PatchError: the model is under another library's cache, or two strategies would skip the
            same places.
    """
    log.configure()
    chosen = choose(strategy, {"when": when, "where": where, "how": how}, params)
    spec = chosen.option("spec", spec, None)
    enabled = chosen.option("enabled", enabled, True)
    dry_run = chosen.option("dry_run", dry_run, False)
    memory_limit = chosen.option("memory_limit", memory_limit, None)
    memory_fit = chosen.option("memory_fit", memory_fit, None)
    keep = chosen.option("keep", keep, False)
    books = ledger(memory_limit, memory_fit)
    models = denoisers(target, spec, chosen.strategy)
    together = given_group(group)
    planned = plan(models, chosen.strategy, spec, books, dry_run, chosen.expectations())
    tell_apart([session for session, _ in planned], target)
    if not isinstance(target, nn.Module):
        for session, _ in planned:
            session.accept(target)
    for session, _ in planned:
        session.group, session.keep = together, keep
    install(planned)
    patched_ = Patch(chosen, [session for session, _ in planned])
    for session, _ in planned:
        session.patch = patched_
        if not isinstance(target, nn.Module):
            session.attach(target)
    patched_.enabled = enabled
    return patched_


def unpatch(target: Any) -> None:
    """Take every patch off a pipeline or model; nothing happens where there is none.

    Raises:
        ConcurrencyError: a call of a denoiser is under way, in another thread for instance.
    """
    take_off(sessions_of(target))


@contextlib.contextmanager
def patched(
    target: Any, strategy: Choice | Sequence[Choice] | None = None, **options: Any
) -> Iterator[Patch]:
    """`patch` for the length of a `with` block."""
    with patch(target, strategy, **options) as installed:
        yield installed


def is_patched(target: Any) -> bool:
    """Whether any denoiser of the target is patched."""
    return bool(sessions_of(target))


def stats(target: Any) -> RunStats:
    """What was computed and skipped since the target was patched.

    Raises:
        PatchError: it is not patched.
    """
    found = sessions_of(target)
    if not found:
        raise PatchError(f"{describe(target)} is not patched; call autocache.patch on it first")
    from autocache.run_stats import collect

    return collect(found)


def attach(pipeline: Any) -> None:
    """Let patched denoisers of a pipeline take its scheduler's signals."""
    for session in sessions_of(pipeline):
        session.attach(pipeline)


def strategies() -> list[StrategyInfo]:
    """The strategies there are, by name."""
    return _strategies.infos()


def specs() -> list[SpecInfo]:
    """The model specs there are, by name."""
    return registry.specs()
