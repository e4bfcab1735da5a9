"""Which table or preset belongs to which checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from autocache.spec import registry
from autocache.spec.loader import load
from autocache.spec.schema import Spec
from autocache.spec.tables import choose, matches

FLUX = {"num_layers": 19, "num_single_layers": 38, "in_channels": 64, "guidance_embeds": True}


def _bundled(name: str) -> Spec:
    return load(registry.directory() / f"{name}.yaml")


def test_a_config_matches_when_every_item_is_equal() -> None:
    """One differing or absent item is enough not to match, and nothing to match never does."""
    assert matches({"a": 1, "b": [2, 3]}, [], {"a": 1, "b": 3, "c": 0})
    assert not matches({"a": 1, "b": [2, 3]}, [], {"a": 1, "b": 4})
    assert not matches({"a": None}, [], {})
    assert not matches({}, [], {"a": 1})


@pytest.mark.parametrize(
    "name",
    [
        "black-forest-labs/FLUX.1-dev",
        "/models/FLUX.1-dev/transformer",
        "/hub/models--black-forest-labs--FLUX.1-dev/snapshots/0ef5/transformer",
    ],
)
def test_a_checkpoint_is_known_by_the_name_it_was_loaded_from(name: str) -> None:
    """A repository, a local copy and a hub cache folder all carry the checkpoint's name."""
    checkpoints = ["black-forest-labs/FLUX.1-dev"]
    assert matches({}, checkpoints, {"_name_or_path": name})
    assert not matches({}, checkpoints, {"_name_or_path": "someone/FLUX.1-dev-lora"})


def test_the_name_goes_before_the_config() -> None:
    """FLUX.1-Kontext-dev gets its own table although its config is that of FLUX.1-dev."""
    tables = _bundled("FluxTransformer2DModel").teacache
    assert [t.id for t in choose(tables, FLUX)] == ["flux1-dev"]
    kontext = {**FLUX, "_name_or_path": "black-forest-labs/FLUX.1-Kontext-dev"}
    assert [t.id for t in choose(tables, kontext)] == ["comfyui-flux1-kontext-dev"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_layers": 30, "use_rotary_positional_embeddings": False}, "cogvideox-2b"),
        ({"num_layers": 42, "patch_size_t": None, "in_channels": 32}, "cogvideox-5b"),
        ({"num_layers": 42, "patch_size_t": 2, "in_channels": 16}, "cogvideox1.5-5b"),
        ({"num_layers": 42, "patch_size_t": 2, "in_channels": 32}, "cogvideox1.5-5b-i2v"),
    ],
)
def test_one_table_per_cogvideox_config(config: dict[str, Any], expected: str) -> None:
    """The configs of the four CogVideoX families choose one table each."""
    tables = _bundled("CogVideoXTransformer3DModel").teacache
    assert [t.id for t in choose(tables, config)] == [expected]


def test_published_figures_keep_their_precision() -> None:
    """Coefficients are the published digits, highest order first."""
    tables = {t.id: t for t in _bundled("WanTransformer3DModel").teacache}
    assert tables["wan2.1-t2v-14b"].coefficients[:2] == [-5784.54975374, 5449.50911966]
    assert len(tables["lightx2v-wan2.2-ti2v-5b"].coefficients) == 6
    ret = tables["wan2.1-t2v-1.3b-ret"]
    assert (ret.probe, ret.ret_steps, ret.warmup_steps, ret.force_last) == (
        "time_projection",
        True,
        5,
        False,
    )


def test_preset_ranges_name_stacks() -> None:
    """The block ranges of a preset are half-open and belong to stacks of the same spec."""
    for info in registry.specs():
        spec = load(info.file)
        paths = {stack.path for stack in spec.stacks}
        for preset in spec.presets.get("dit_block", []):
            ranges = preset.parameters["blocks"]
            assert set(ranges) <= paths
            assert all(start < end for start, end in ranges.values())
