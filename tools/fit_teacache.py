"""TeaCache coefficients of the bundled transformers: `python tools/fit_teacache.py`.

The published procedure: run without cache, take for consecutive steps x, the relative L1 change of
the probe, and y, that of the denoiser's output, pool all steps and prompts, and fit y = p(x) by
least squares. Thresholds are then sums of p(x) at which a fixed share of the steps is computed.
Prints, for each pipeline, what belongs into the `teacache` list of its denoiser's spec.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import diffusers
import numpy as np
import torch

import autocache
from autocache import demo
from autocache.demo.clips import held_out_clips
from autocache.demo.prompts import held_out
from autocache.probe import Named
from autocache.runtime.distance import relative_l1
from autocache.runtime.moment import Decision, Moment
from autocache.when import When
from autocache.when.accumulated import polynomial

SHARES = (0.6, 0.5, 0.4)
"""Of the steps, computed at the three thresholds, gentlest first."""


@dataclass(frozen=True)
class Case:
    """A bundled pipeline and how it is called, without guidance."""

    pipeline: type
    prompts: Callable[[int], list[str]]
    arguments: dict[str, Any]


CASES = {
    "shapes": Case(
        diffusers.FluxPipeline, held_out, {"height": 64, "width": 64, "max_sequence_length": 24}
    ),
    "shapes_wan": Case(
        diffusers.WanPipeline,
        held_out_clips,
        {"height": 32, "width": 32, "num_frames": 17, "guidance_scale": 1.0},
    ),
}


@dataclass(frozen=True)
class Watch(When):
    """Computes every step and measures how far the probe moved since the one before."""

    probe: Named = field(default_factory=lambda: Named("modulated_input"))  # type: ignore[override]
    changes: list[float] = field(default_factory=list, repr=False)
    before: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def decide(self, moment: Moment) -> Decision:
        probe = moment.probe
        assert probe is not None
        if moment.step:
            self.changes.append(relative_l1(probe, self.before["probe"]))
        self.before["probe"] = probe
        return Decision(compute=True)


def record(case: Case, name: str, prompts: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The changes of probe and output, each (prompts, steps - 1)."""
    pipe = case.pipeline.from_pretrained(demo.path(name), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    watch, outputs = Watch(), []
    hook = pipe.transformer.register_forward_hook(lambda _m, _a, out: outputs.append(out[0]))
    xs, ys = [], []
    with autocache.patched(pipe, when=watch):
        for n, prompt in enumerate(case.prompts(prompts)):
            noise = torch.Generator().manual_seed(n)
            pipe(
                prompt=prompt,
                num_inference_steps=steps,
                generator=noise,
                output_type="latent",
                **case.arguments,
            )
            pairs = zip(outputs[1:], outputs[:-1], strict=True)
            xs.append([*watch.changes])
            ys.append([relative_l1(now, before) for now, before in pairs])
            outputs.clear()
            watch.changes.clear()
    hook.remove()
    return np.array(xs), np.array(ys)


def computed(rescaled: Sequence[float], threshold: float) -> float:
    """The share of the steps that the rule computes, the first and the last always."""
    total, count = 0.0, 2
    for change in rescaled[:-1]:
        total += max(change, 0.0)
        if total >= threshold:
            total, count = 0.0, count + 1
    return count / (len(rescaled) + 1)


def thresholds(rescaled: np.ndarray) -> list[float]:
    """The least ones at which no more than the wanted shares are computed, over all runs."""
    grid = np.geomspace(rescaled[rescaled > 0].min(), rescaled.sum(axis=1).max(), 400)
    means = [np.mean([computed(run, level) for run in rescaled]) for level in grid]
    found = [
        next(level for level, mean in zip(grid, means, strict=True) if mean <= share)
        for share in SHARES
    ]
    return [float(f"{level:.3g}") for level in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--order", type=int, default=4)
    options = parser.parse_args()
    for name, case in CASES.items():
        x, y = record(case, name, options.prompts, options.steps)
        fitted = [float(f"{c:.6g}") for c in np.polyfit(x.ravel(), y.ravel(), options.order)]
        rescaled = np.vectorize(lambda value, c=tuple(fitted): polynomial(c, value))(x)
        share = 1 - np.square(y - rescaled).sum() / np.square(y - y.mean()).sum()
        print(f"  - id: {name}")
        print(f"    # Valid for x from {x.min():.4g} to {x.max():.4g}; R^2 of the fit {share:.2f}.")
        print("    probe: modulated_input")
        print(f"    coefficients: {fitted}")
        print(f"    thresholds: {thresholds(rescaled)}")
        print(f"    steps: {options.steps}")
        print("    provenance: bundled")
        print(f'    source: "tools/fit_teacache.py --prompts {options.prompts}"')


if __name__ == "__main__":
    main()
