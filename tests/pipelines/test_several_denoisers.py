"""A pipeline with denoisers of several kinds, and a strategy for one of them."""

from __future__ import annotations

import pytest

import autocache
import tiny
from autocache.errors import DoesNotApplyError, PatchError


class TwoKinds:
    """A transformer and a UNet, as in a pipeline with a prior."""

    def __init__(self) -> None:
        self.prior, _ = tiny.build("DiTTransformer2DModel")
        self.unet, _ = tiny.build("UNet2DConditionModel")
        self.components = {"prior": self.prior, "unet": self.unet}


@pytest.mark.parametrize(("strategy", "patched"), [("deepcache", "unet"), ("dit_block", "prior")])
def test_what_it_does_not_apply_to_runs_as_it_is(
    strategy: str, patched: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The other one is patched; the log names the one that is not, and why."""
    pipe = TwoKinds()
    with caplog.at_level("WARNING", "autocache"):
        patch = autocache.patch(pipe, strategy)
    (other,) = {"prior", "unet"} - {patched}
    assert patch.denoisers == [getattr(pipe, patched)]
    assert not autocache.is_patched(getattr(pipe, other))
    name = type(getattr(pipe, other)).__name__
    assert caplog.messages[0].startswith(f"{name} runs as it is: {name} has no")
    patch.unpatch()
    assert not autocache.is_patched(pipe)


def test_a_part_that_is_patched_by_itself_is_in_the_way() -> None:
    """Where both would skip the same modules; it says what to unpatch, and changes nothing."""
    unet, _ = tiny.build("UNet2DConditionModel")
    part = unet.get_submodule("down_blocks.0.attentions.0")
    patch = autocache.patch(part, "attention")
    with pytest.raises(PatchError, match=r"has a Transformer2DModel .* patched by itself"):
        autocache.patch(unet, "attention")
    assert not autocache.is_patched(unet)
    assert autocache.is_patched(part)
    patch.unpatch()
    autocache.patch(unet, "attention")


def test_one_that_applies_to_none_is_refused() -> None:
    """With what the first of them lacks."""
    pipe = TwoKinds()
    with pytest.raises(DoesNotApplyError, match="magcache has no magnitude ratios for this DiT"):
        autocache.patch(pipe, "magcache")
    assert not autocache.is_patched(pipe)
