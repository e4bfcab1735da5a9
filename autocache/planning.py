"""From models and a strategy to sessions with their sites, and all of them installed or none."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from autocache.errors import DoesNotApplyError, PatchError
from autocache.runtime import alone
from autocache.runtime.changes import sites
from autocache.runtime.intercept import remove, site_of
from autocache.runtime.root import session_of
from autocache.runtime.session import Session
from autocache.spec import registry
from autocache.spec.bind import bind
from autocache.targets import config_of, modules, uncompiled

if TYPE_CHECKING:
    from autocache.runtime.ledger import Ledger
    from autocache.strategy.composition import Composition
    from autocache.strategy.recipe import Strategy
    from autocache.tuning.expectations import Expectations

logger = logging.getLogger("autocache")


def plan(
    models: Sequence[nn.Module], strategy: Strategy | Composition, *given: Any
) -> list[tuple[Session, list]]:
    """Of several denoisers those that the strategy applies to; it must apply to one."""
    planned, refused = [], []
    for model in models:
        try:
            planned.append(_of(model, strategy, *given))
        except DoesNotApplyError as error:
            refused.append((model, error))
    for model, error in refused:
        if not planned:
            raise error
        # In words: whoever keeps the record would keep the error, and by its traceback the model.
        logger.warning("%s runs as it is: %s", type(uncompiled(model)).__name__, str(error))
    return planned


def _of(
    entry: nn.Module,
    strategy: Strategy | Composition,
    spec: Any,
    ledger: Ledger,
    dry_run: bool,
    expected: Expectations | None,
) -> tuple[Session, list]:
    model = uncompiled(entry)
    if expected is not None:
        expected.admit(model)
    if getattr(model, "is_cache_enabled", False):
        raise PatchError(
            f"{type(model).__name__} is under diffusers' own cache; call its disable_cache() first"
        )
    if spec is None and not strategy.needs_spec:
        bound = bind(registry.find(model) or registry.bare(model), model)
    else:
        bound = bind(registry.resolve(spec, model), model)
    recipes = strategy.recipes(bound, config_of(model))
    if expected is not None:
        recipes = expected.adapted(recipes)
    session = Session(model, bound, recipes, ledger, dry_run, entry)
    session.expected = expected
    return session, sites(session, bound)


def tell_apart(sessions: Sequence[Session], target: Any) -> None:
    """Those of one class, such as two experts, are also called what the pipeline calls them."""
    names = {id(uncompiled(module)): name for name, module in modules(target)}
    classes = Counter(session.label for session in sessions)
    for session in sessions:
        if classes[session.label] > 1:
            session.label = f"{session.label} ({names[id(session.model)]})"


def install(planned: list[tuple[Session, list]]) -> None:
    """Instrument all of them; on any failure every one is as it was, with its former patch."""
    with alone.changing:
        _install(planned)


def _install(planned: list[tuple[Session, list]]) -> None:
    undo: list[Callable[[], None]] = []
    try:
        for session, found in planned:
            model = session.model
            replaced = session_of(model) if model is not None else None
            if replaced is not None:
                undo.append(replaced.suspend())
            undo.append(session.remove)
            _refuse_foreign(session, found)
            session.install(found)
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def sessions_of(target: Any) -> list[Session]:
    """The patched denoisers of a pipeline, or the one that a model is."""
    found = (session_of(uncompiled(module)) for _, module in modules(target))
    return [session for session in dict.fromkeys(found) if session is not None]


def take_off(sessions: Sequence[Session]) -> None:
    """Take all of them off their models, or none.

    Raises:
        ConcurrencyError: a call of a denoiser is under way.
    """
    with alone.only(sessions):
        for session in sessions:
            session.remove()


def _refuse_foreign(session: Session, found: list) -> None:
    """Raises PatchError where a part of the model is patched as a model of its own."""
    for module, _ in found:
        site = site_of(module)
        if site is not None and site.session.model is None:
            remove(module)  # It has outlived a patched model that it was in.
        elif site is not None:
            other = type(site.session.model).__name__
            raise PatchError(
                f"this {type(session.model).__name__} has a {other} in it that is patched by "
                "itself; unpatch that first"
            )
