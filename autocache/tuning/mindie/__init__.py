"""MindIE's two published searches: which range of blocks to skip, and when to reuse attention.

Both turn a speed-up into the least that has to be skipped for it, try what skips that much, and
keep the three candidates of least error. They know of no model: `evaluate` takes a candidate's
parameters, draws with them and returns the error. Ratios are taken as the decimals they are
written as, so that rounding noise cannot add a block or a step. `run.PublishedSearch` has them
draw with a pipeline.

Source: msmodelslim's search for DiTCache. Of the one for AttentionCache only the interface and
results are published; how it enumerates is derived here, so that they are among its candidates.
"""

from autocache.tuning.mindie.attention import (
    AttentionSearch,
    generations_attention,
    search_attention,
)
from autocache.tuning.mindie.blocks import BlockSearch, generations_dit_block, search_dit_block
from autocache.tuning.mindie.found import Evaluate, Found, Tell, TryAll

__all__ = [
    "AttentionSearch",
    "BlockSearch",
    "Evaluate",
    "Found",
    "Tell",
    "TryAll",
    "generations_attention",
    "generations_dit_block",
    "search_attention",
    "search_dit_block",
]
