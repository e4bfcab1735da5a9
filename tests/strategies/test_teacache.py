"""TeaCache: named levels of the published thresholds, and the variant that retains steps."""

from __future__ import annotations

import pytest
import torch

import autocache
from autocache.errors import DoesNotApplyError, ParameterError
from autocache.spec import registry
from autocache.spec.bind import bind
from autocache.spec.schema import Spec
from autocache.when import Accumulated
from tiny import build


def threshold(model, **parameters) -> float:
    with autocache.patched(model, "teacache", **parameters) as patch:
        (recipe,) = patch.strategy.recipes(bind(patch.spec, model), dict(model.config))
    assert isinstance(recipe.when, Accumulated)
    assert not recipe.when.relative
    return recipe.when.threshold


@pytest.mark.parametrize(
    ("name", "table", "slow", "medium", "fast"),
    [
        ("FluxTransformer2DModel", "flux1-dev", 0.25, 0.4, 0.8),
        ("WanTransformer3DModel", "wan2.1-t2v-14b", 0.14, 0.15, 0.2),
        ("WanTransformer3DModel", "wan2.1-t2v-14b-ret", 0.1, 0.1, 0.2),
        ("FluxTransformer2DModel", "comfyui-flux1-kontext-dev", 0.22, 0.22, 0.22),
    ],
)
def test_quality_names_a_published_threshold(name, table, slow, medium, fast):
    """Slow is the gentlest, which is the default as well, and fast the highest."""
    model, _ = build(name)
    levels = {level: threshold(model, table=table, quality=level) for level in ("slow", "fast")}
    assert levels == {"slow": slow, "fast": fast}
    assert threshold(model, table=table, quality="medium") == medium
    assert threshold(model, table=table) == slow


def test_quality_needs_published_thresholds():
    """Without a table there is nothing to choose from; a threshold has been chosen already."""
    model, _ = build("DiTTransformer2DModel")
    with pytest.raises(ParameterError, match=r"none for this DiT.*give threshold= instead"):
        autocache.patch(model, "teacache", quality="fast", coefficients=(1.0, 0.0))
    with pytest.raises(ParameterError, match="either a threshold or a quality"):
        autocache.patch(model, "teacache", quality="fast", threshold=0.1)
    with pytest.raises(ParameterError, match="'slow', 'medium' or 'fast'"):
        autocache.patch(model, "teacache", quality="best")


@pytest.mark.parametrize(
    ("table", "computed"),
    [("wan2.1-t2v-1.3b-ret", [0, 1, 2, 3, 4]), ("wan2.1-t2v-1.3b", [0, 11])],
)
def test_retained_steps(table, computed):
    """In each guidance branch: with the ret variant the first five steps are computed and the last
    may skip; otherwise the first and the last are computed."""
    model, inputs = build("WanTransformer3DModel")
    with autocache.patched(model, "teacache", table=table, threshold=1e9) as patch:
        for session in patch._sessions:
            session.track.clock.announce(12)
        for step in range(12):
            for branch in ("cond", "uncond"):
                with model.cache_context(branch), torch.no_grad():
                    model(**inputs(900 - 60 * step))
            for session in patch._sessions:
                session.step_ended(None)
        steps = patch.stats().steps
    for branch in ("cond", "uncond"):
        own = [s.step for s in steps if s.branch == branch and s.action == "computed"]
        assert own == computed


def test_use_ret_steps_chooses_the_variant():
    """By the name of the checkpoint, as without it."""
    model, _ = build("WanTransformer3DModel")
    model.register_to_config(_name_or_path="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers")
    assert threshold(model, quality="slow") == 0.18
    assert threshold(model, quality="slow", use_ret_steps=True) == 0.2


@pytest.mark.parametrize("strategy", ["teacache", "customcache"])
def test_without_a_table_it_says_what_to_do(strategy):
    """Nothing is guessed: the ways out are coefficients, a table by name, other strategies."""
    model, _ = build("FluxTransformer2DModel")
    with pytest.raises(DoesNotApplyError) as refused:
        autocache.patch(model, strategy, threshold=0.1)
    for way in (strategy, "coefficients=", "table=", "flux1-dev", "easycache", "fbcache"):
        assert way in str(refused.value)
    assert not autocache.is_patched(model)


def test_a_borrowed_table_says_so(caplog):
    """A table that was fitted on another checkpoint is used, and the log names that one."""
    model, _ = build("FluxTransformer2DModel")
    facts = registry.resolve(None, model).model_dump(by_alias=True)
    own = next(table for table in facts["teacache"] if table["id"] == "flux1-dev")
    own |= {"fitted_on": "black-forest-labs/FLUX.1-dev", "checkpoints": ["somebody/Other"]}
    spec = Spec.model_validate(facts | {"teacache": [own]})
    model.register_to_config(_name_or_path="somebody/Other")
    with caplog.at_level("WARNING", "autocache"):
        autocache.patch(model, "teacache", spec=spec)
    assert "fitted on black-forest-labs/FLUX.1-dev" in caplog.text
