"""MindIE's two published searches: which range of blocks to skip, and when to reuse attention.

Both turn a speed-up into the least that has to be skipped for it, try what skips that much, and
keep the three candidates of least error. They know of no model: `evaluate` takes a candidate's
parameters, draws with them and returns the error. Numbers are taken as the decimals they are
written as, so that rounding noise cannot add a block or a step.

Source: msmodelslim's dit_cache search, from which the attention search is known by its interface
and its published results; how that one enumerates is derived here.
"""

from autocache.tuning.mindie.attention import (
    attention_candidates,
    generations_attention,
    search_attention,
)
from autocache.tuning.mindie.blocks import (
    generations_dit_block,
    search_dit_block,
    shortest_range,
)
from autocache.tuning.mindie.found import Evaluate, Found, Tell

__all__ = [
    "Evaluate",
    "Found",
    "Tell",
    "attention_candidates",
    "generations_attention",
    "generations_dit_block",
    "search_attention",
    "search_dit_block",
    "shortest_range",
]
