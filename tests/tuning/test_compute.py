"""The count of what denoisers compute is that of torch, and counting changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import tiny
from autocache.tuning.compute import Compute

ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


@pytest.mark.parametrize(
    "name", ["FluxTransformer2DModel", "WanTransformer3DModel", "UNet2DConditionModel"]
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_counts_what_torch_counts(name, mode):
    """Also in inference mode, where composite operations arrive whole; outputs stay bit for bit."""
    model, inputs = tiny.build(name)
    with mode():
        plain = model(**inputs(500))[0]
        with FlopCounterMode(display=False, custom_mapping={ON_CPU: attention}) as counter:
            model(**inputs(500))
        with Compute([model]) as compute:
            counted = model(**inputs(500))[0]
    assert compute.spent == counter.get_total_flops() > 0
    assert torch.equal(counted, plain)


def test_it_counts_the_given_models_alone():
    """Neither another model, nor anything after it was left, also by an error."""
    model, inputs = tiny.build("FluxTransformer2DModel")
    other, _ = tiny.build("FluxTransformer2DModel", seed=1)
    with torch.no_grad(), Compute([model]) as compute:
        other(**inputs(1))
        assert compute.spent == 0
        with pytest.raises(TypeError):
            model(**inputs(1), unknown=True)
        other(**inputs(1))
        assert compute.spent == 0
        model(**inputs(1))
        once = compute.spent
        model(**inputs(1))
        assert compute.spent == 2 * once > 0
    with torch.no_grad():
        model(**inputs(1))
    assert compute.spent == 2 * once
