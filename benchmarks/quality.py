"""Every strategy on every bundled pipeline, beside fewer steps: `python benchmarks/quality.py`.

Each strategy runs with its defaults. Compute is the multiplications of the denoiser's matrix
products, convolutions and attention, counted and not timed; next to every strategy stands the
plain pipeline with as many steps as cost no less than the strategy did. PSNR is against the plain
pipeline at the full number of steps, from the same noise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import autocache
from autocache import demo
from autocache.demo.clips import held_out_clips
from autocache.demo.prompts import held_out
from autocache.demo.run import mean_psnr
from autocache.demo.single import held_out as held_out_single
from autocache.errors import AutocacheError
from autocache.metrics import psnr

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Case:
    """A bundled pipeline and how it is called."""

    pipeline: type
    prompts: Callable[[int], list[str]]
    arguments: dict[str, Any]
    output: str
    """The field of the pipeline's result that holds what it drew."""
    denoiser: str


CASES = {
    "shapes": Case(
        diffusers.FluxPipeline,
        held_out,
        {"height": 64, "width": 64, "max_sequence_length": 24},
        "images",
        "transformer",
    ),
    "shapes_sd": Case(
        diffusers.StableDiffusionPipeline,
        held_out_single,
        {"height": 64, "width": 64, "guidance_scale": 4.0},
        "images",
        "unet",
    ),
    "shapes_wan": Case(
        diffusers.WanPipeline,
        held_out_clips,
        {"height": 32, "width": 32, "num_frames": 17, "guidance_scale": 4.0},
        "frames",
        "transformer",
    ),
}


class Runner:
    """One pipeline and one set of prompts."""

    def __init__(self, name: str, prompts: int, steps: int) -> None:
        self.case = CASES[name]
        self.steps = steps
        self.captions = self.case.prompts(prompts)
        self.pipe = self.case.pipeline.from_pretrained(demo.path(name), torch_dtype=torch.float32)
        self.pipe.set_progress_bar_config(disable=True)
        self.plain: dict[int, tuple[np.ndarray, int]] = {}

    def draw(self, steps: int) -> tuple[np.ndarray, int]:
        """What is drawn, (prompts, rows, columns, 3) in [0, 1], and the denoiser's compute."""
        counter = FlopCounterMode(display=False)
        with counter:
            drawn = self.pipe(
                prompt=self.captions,
                num_inference_steps=steps,
                generator=[torch.Generator().manual_seed(n) for n in range(len(self.captions))],
                output_type="np",
                **self.case.arguments,
            )[self.case.output]
        counted = counter.get_flop_counts()
        name = type(getattr(self.pipe, self.case.denoiser)).__name__
        # A clip is one picture here: its frames lie below each other.
        pictures = drawn.reshape(len(drawn), -1, *drawn.shape[-2:])
        return pictures, sum(counted[name].values())

    def reference(self, steps: int) -> tuple[np.ndarray, int]:
        """The plain pipeline."""
        if steps not in self.plain:
            self.plain[steps] = self.draw(steps)
        return self.plain[steps]

    def row(self, strategy: str) -> dict[str, Any]:
        """One strategy's figures, or why it does not apply."""
        whole, cost = self.reference(self.steps)
        try:
            patch = autocache.patch(self.pipe, strategy)
        except AutocacheError as error:
            return {"does_not_apply": str(error)}
        with patch:
            pictures, spent = self.draw(self.steps)
            stats = patch.stats()
        fewer = max(1, -(-self.steps * spent // cost))
        return {
            "compute": round(spent / cost, 4),
            "psnr": round(mean_psnr(psnr(whole, pictures)), 2),
            "fewer_steps": fewer,
            "fewer_steps_psnr": round(mean_psnr(psnr(whole, self.reference(fewer)[0])), 2),
            "bytes_peak": stats.bytes_peak,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=28)
    options = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    for name in CASES:
        runner = Runner(name, options.prompts, options.steps)
        figures[name] = {}
        for known in autocache.strategies():
            figures[name][known.name] = row = runner.row(known.name)
            print(name, known.name, row, flush=True)
    result = {
        "command": f"python benchmarks/quality.py --prompts {options.prompts} "
        f"--steps {options.steps}",
        "prompts": options.prompts,
        "steps": options.steps,
        "machine": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "figures": json.loads(json.dumps(figures).replace("Infinity", '"inf"')),
    }
    path = ROOT / "benchmarks" / "results" / "quality.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
