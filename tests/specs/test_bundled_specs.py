"""Models of which one spec describes several variants."""

from __future__ import annotations

from autocache.spec import registry
from autocache.spec.bind import bind
from tests.tiny import build


def test_token_replace_blocks_of_hunyuan_video_bind_too() -> None:
    """The image-to-video variant has block classes of its own and the same spec."""
    model, _ = build("HunyuanVideoTransformer3DModel", image_condition_type="token_replace")
    assert bind(registry.resolve(None, model), model).block_count == 6


def test_a_subclass_is_found_through_its_bases() -> None:
    """A patched or derived denoiser keeps the spec of the class it derives from."""
    model, _ = build("DiTTransformer2DModel")
    derived = type("Derived", (type(model),), {})
    found = registry.find(derived)
    assert found is not None
    assert found.name == "DiTTransformer2DModel"
