"""An unknown name of another library or paper is answered with ours."""

from __future__ import annotations

import pytest

from autocache import strategy
from autocache.errors import ParameterError, UnknownStrategyError
from autocache.strategy.synonyms import PARAMETERS, STRATEGIES


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("first_block_cache", "fbcache"),
        ("FirstBlockCacheConfig", "fbcache"),
        ("TeaCache", "teacache"),
        ("DBCACHE", "dbcache"),
        ("pyramid_attention_broadcast", "pab"),
        ("dit_block_cache", "dit_block"),
        ("teacach", "teacache"),
    ],
)
def test_a_strategy_by_the_name_others_give_it(word, ours):
    with pytest.raises(UnknownStrategyError, match=f"did you mean '{ours}'"):
        strategy.known(word)


@pytest.mark.parametrize(
    ("name", "word", "ours"),
    [
        ("fora", "skip_last", "last_steps"),
        ("fora", "step_interval", "interval"),
        ("dit_block", "interval", "step_interval"),
        ("teacache", "rel_l1_thresh", "threshold"),
        ("dbcache", "residual_diff_threshold", "threshold"),
        ("dbcache", "Fn_compute_blocks", "fn"),
        ("magcache", "retention_ratio", "retention"),
        ("fora", "warmup", "warmup_steps"),
    ],
)
def test_a_parameter_by_the_name_others_give_it(name, word, ours):
    with pytest.raises(ParameterError, match=f"did you mean '{ours}'"):
        strategy.get(name).create(**{word: 1})


def test_a_hint_names_only_what_the_strategy_has():
    """fora measures nothing, so that it has no threshold to name."""
    with pytest.raises(ParameterError, match=r"expected one of: .*interval"):
        strategy.get("fora").create(rel_l1_thresh=1)


def test_what_is_hinted_at_exists():
    assert set(STRATEGIES.values()) <= set(strategy.names())
    fields = {field for name in strategy.names() for field in strategy.get(name).model_fields}
    assert set(PARAMETERS) <= fields
