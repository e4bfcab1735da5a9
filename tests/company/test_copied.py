"""A copy of a patched pipeline has a patch of its own, and needs the original no more."""

from __future__ import annotations

import copy
import gc
import weakref

import torch
from pipelines.tiny_pipelines import make, run

import autocache


def test_a_copy_does_not_keep_the_original_alive() -> None:
    """The original and its weights go, and the copy goes on, both experts of it."""
    # What is imported in the first run may be logged with its stack, which pytest keeps.
    run(make("wan"))
    pipe = make("wan")
    autocache.patch(pipe, "dit_block", step_start=0, step_interval=2)
    expected = run(pipe)
    copied = copy.deepcopy(pipe)
    originals = [weakref.ref(pipe), weakref.ref(pipe.transformer), weakref.ref(pipe.transformer_2)]
    del pipe
    gc.collect()
    assert [original() for original in originals] == [None, None, None]
    assert torch.equal(run(copied), expected)
    stats = autocache.stats(copied)
    assert stats.strategy == "dit_block"
    assert stats.blocks.share < 1
    autocache.unpatch(copied)
    assert not autocache.is_patched(copied)
