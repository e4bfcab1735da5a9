"""What was published for the checkpoint a model was loaded from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from autocache.spec.bind import Bound
    from autocache.spec.tables import MagCacheTable, Preset, TeaCacheTable

    Table = TypeVar("Table", TeaCacheTable, MagCacheTable)

logger = logging.getLogger("autocache")


def preset(bound: Bound, strategy: str, config: Mapping[str, Any]) -> Preset | None:
    """The parameters of a strategy."""
    from autocache.spec.tables import choose

    found = choose(bound.spec.presets.get(strategy, []), config, config.get("_name_or_path"))
    return found[0] if found else None


def table(strategy: str, tables: Sequence[Table], config: Mapping[str, Any]) -> Table | None:
    """The first of the calibration tables that belongs to the checkpoint.

    One that was fitted on another checkpoint says so in the log.
    """
    from autocache.spec.tables import choose

    found = choose(tables, config, config.get("_name_or_path"))
    if not found:
        return None
    if found[0].fitted_on:
        logger.warning(
            "%s: table %s was fitted on %s and is only borrowed for this checkpoint; judge its "
            "results, or calibrate one of your own (source: %s)",
            strategy,
            found[0].id,
            found[0].fitted_on,
            found[0].source,
        )
    return found[0]
