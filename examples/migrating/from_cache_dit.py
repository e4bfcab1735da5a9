"""From cache-dit's DBCache to autocache's.

    pip install cache-dit
    python examples/migrating/from_cache_dit.py

Both draw the same picture from the same steps.
"""

from __future__ import annotations

from typing import Any

from bundled import draw, load, report, require, watched

import autocache


def by_cache_dit() -> Any:
    """The picture with cache-dit."""
    import cache_dit
    from cache_dit import DBCacheConfig

    pipe = load()
    module = watched(pipe)
    # before
    cache_dit.enable_cache(
        pipe,
        cache_config=DBCacheConfig(
            Fn_compute_blocks=1,
            Bn_compute_blocks=0,
            residual_diff_threshold=0.12,
            max_warmup_steps=4,
            max_continuous_cached_steps=4,
        ),
    )
    try:
        return draw(pipe, module)
    finally:
        cache_dit.disable_cache(pipe)


def by_patch() -> Any:
    """The picture with autocache."""
    pipe = load()
    # after
    autocache.patch(
        pipe,
        "dbcache",
        fn=1,
        bn=0,
        threshold=0.12,
        warmup_steps=4,
        max_consecutive_skips=4,
        joined=True,  # cache-dit makes one list of both stacks of Flux
    )
    try:
        return draw(pipe, watched(pipe))
    finally:
        autocache.unpatch(pipe)


def main() -> None:
    """Draw with both and compare."""
    require("cache_dit", "cache-dit")
    # cache-dit replaces the pipeline's `__call__` for its whole class, so it goes last.
    after = by_patch()
    report("cache-dit", by_cache_dit(), after)


if __name__ == "__main__":
    main()
