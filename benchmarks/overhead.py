"""What patching costs when every step is computed: `python benchmarks/overhead.py`.

One 57-block FluxTransformer of tiny width is, in turn, left plain, patched by each strategy with a
setting that never skips, and put under diffusers' own First Block Cache at threshold 0: the very
same object each time, since two equal models differ by more than what is measured. Figures are
medians of ratios to the plain step of the same turn.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import FirstBlockCacheConfig, FluxTransformer2DModel

import autocache

NEVER_SKIP: dict[str, dict[str, Any]] = {
    "teacache": {"threshold": 0, "coefficients": [1.0, 0.0]},
    "dit_block": {"step_interval": 1},
    "attention": {"step_interval": 1},
}
# Probes, keeps and accounts as in use, and still computes: the probe's change is never so small.
KEEPS = {"teacache": {"threshold": 1e-9, "coefficients": [1.0, 0.0]}}


WARM, TIMED = 4, 8
"""Steps of one turn: the interpreter first specialises its code for the classes it meets."""


def build() -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=16,
        num_attention_heads=1,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    ).eval()


def inputs(time_value: float) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(1, 16, 4, generator=generator),
        "encoder_hidden_states": torch.randn(1, 8, 16, generator=generator),
        "pooled_projections": torch.randn(1, 16, generator=generator),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(8, 3),
        "timestep": torch.tensor([time_value]),
        "return_dict": False,
    }


Contestant = tuple[Callable[[FluxTransformer2DModel], Any], Callable[[FluxTransformer2DModel], Any]]


def nothing(model: FluxTransformer2DModel) -> None:
    return None


def contestants() -> dict[str, Contestant]:
    """How to put each one on the model, and how to take it off."""
    patches = {f"autocache {name}": (name, given) for name, given in NEVER_SKIP.items()}
    patches["autocache teacache, measuring"] = ("teacache", KEEPS["teacache"])
    found: dict[str, Contestant] = {"plain": (nothing, nothing), "plain again": (nothing, nothing)}
    for label, (name, given) in patches.items():
        found[label] = (
            functools.partial(autocache.patch, strategy=name, **given),
            autocache.unpatch,
        )
    config = FirstBlockCacheConfig(threshold=0.0)
    enable = functools.partial(FluxTransformer2DModel.enable_cache, config=config)
    found["diffusers FirstBlockCache"] = (enable, FluxTransformer2DModel.disable_cache)
    return found


@torch.no_grad()
def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Median ratio to the plain model's step of the same round, and microseconds per block."""
    model, found = build(), contestants()
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(rounds + 1):
        # The order rotates, so that none is always the one to run after the same neighbour.
        names = list(found)
        names = names[turn % len(names) :] + names[: turn % len(names)]
        for name in names:
            put_on, take_off = found[name]
            put_on(model)
            times = []
            for step in range(WARM + TIMED):
                given = inputs(1 - step / (WARM + TIMED))
                with model.cache_context("cond"):
                    start = time.perf_counter()
                    model(**given)
                    times.append(time.perf_counter() - start)
            take_off(model)
            if turn >= 1:
                seconds[name].append(statistics.median(times[WARM:]))
    figures = {}
    for name, own in seconds.items():
        pairs = list(zip(own, seconds["plain"], strict=True))
        figures[name] = {
            "ratio": statistics.median(a / b for a, b in pairs),
            "added_us_per_block": statistics.median(a - b for a, b in pairs) / 57 * 1e6,
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/overhead.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(options.rounds)
    result = {
        "command": f"python benchmarks/overhead.py --rounds {options.rounds}",
        "machine": f"{platform.processor() or platform.machine()}, 1 thread",
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "model": "FluxTransformer2DModel, 19 + 38 blocks, width 16",
        "figures": figures,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    for name, row in figures.items():
        print(f"{name:<32} {row['ratio']:.4f}x  {row['added_us_per_block']:+.2f} us per block")


if __name__ == "__main__":
    main()
