"""What other libraries and papers call our strategies and parameters: a hint where one is unknown.

Nothing here is accepted in place of the name; an error only says what to write.
"""

from __future__ import annotations

from collections.abc import Iterable

from autocache.errors import nearest

STRATEGIES = {
    "firstblock": "fbcache",
    "pyramidattentionbroadcast": "pab",
    "ditblock": "dit_block",
    "block": "dit_block",
    "db": "dbcache",
    "fb": "fbcache",
    "fewersteps": "fewer_steps",
    "taylor": "taylorseer",
    "tea": "teacache",
}
"""By what is left of a name without case, signs, and the words cache and config."""

PARAMETERS = {
    "threshold": ("residual_diff_threshold", "rel_l1_thresh", "rel_l1_threshold", "thresh", "tau"),
    "warmup_steps": ("max_warmup_steps", "disable_cache_before_step", "skip_first", "first_steps"),
    "last_steps": ("skip_last", "cooldown_steps"),
    "max_consecutive_skips": ("max_continuous_cached_steps", "max_skip_steps"),
    "max_skips": ("max_cached_steps",),
    "fn": ("Fn_compute_blocks",),
    "bn": ("Bn_compute_blocks",),
    "mask": ("steps_computation_mask",),
    "order": ("taylorseer_order", "max_order"),
    "interval": ("cache_interval", "fresh_threshold", "step_interval"),
    "step_interval": ("cache_interval", "interval"),
    "spatial_range": ("spatial_attention_block_skip_range",),
    "spatial_window": ("spatial_attention_timestep_skip_range",),
    "retention": ("retention_ratio",),
    "ratios": ("mag_ratios",),
    "use_ret_steps": ("ret_steps",),
}
"""A parameter of ours with what others call it."""


def strategy_hint(word: str, names: Iterable[str]) -> str:
    """As `nearest`, for the name of a strategy."""
    bare = "".join(letter for letter in word.lower() if letter.isalnum())
    known = STRATEGIES.get(bare.removesuffix("config").removesuffix("cache"))
    return nearest(word.lower(), names) if known is None else f"; did you mean {known!r}?"


def parameter_hint(word: str, names: Iterable[str]) -> str:
    """As `nearest`, for a parameter of one strategy, whose parameters are `names`."""
    own = list(names)
    for ours, theirs in PARAMETERS.items():
        if ours in own and word in theirs:
            return f"; did you mean {ours!r}?"
    return nearest(word, own)
