"""Every strategy on every bundled pipeline, beside fewer steps: `python benchmarks/defaults.py`.

Each strategy runs with its defaults, and one that has none is given something plain, which its row
says. Compute is the multiplications of the denoiser's matrix
products, convolutions and attention, counted and not timed; next to every strategy stands the
plain pipeline with as many steps as cost no less than the strategy did. PSNR is against the plain
pipeline at the full number of steps, from the same noise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

import autocache
from autocache.errors import AutocacheError
from autocache.metrics import mean_psnr, psnr
from autocache.tuning.workload import Workload
from cases import CASES, Case

ROOT = Path(__file__).resolve().parents[1]
GUIDED = {"shapes": False, "shapes_sd": True, "shapes_wan": True}
"""Pipelines with their usual guidance."""


class Runner:
    """One pipeline and one set of prompts."""

    def __init__(self, case: Case, prompts: int, steps: int) -> None:
        self.steps = steps
        self.pipe = case.load()
        call = case.call(GUIDED[case.name], steps)
        self.workload = Workload(self.pipe, case.prompts(prompts, 0), call=call, batch=prompts)
        self.plain: dict[int, tuple[np.ndarray, int]] = {}

    def draw(self, steps: int) -> tuple[np.ndarray, int]:
        """What is drawn, a row of values in [0, 1] for each prompt, and the denoiser's compute."""
        drawn = self.workload.run(count=True, num_inference_steps=steps)
        assert drawn.compute
        return np.stack([sample.ravel() for sample in drawn.samples]), drawn.compute

    def reference(self, steps: int) -> tuple[np.ndarray, int]:
        """The plain pipeline."""
        if steps not in self.plain:
            self.plain[steps] = self.draw(steps)
        return self.plain[steps]

    def given(self, strategy: str) -> tuple[dict[str, Any], str]:
        """What a strategy needs to be told, and that in words."""
        if strategy != "schedule":
            return {}, ""
        return {"steps": range(0, self.steps, 2), "total": self.steps}, "every second step"

    def row(self, strategy: str) -> dict[str, Any]:
        """One strategy's figures, or why it does not apply."""
        whole, cost = self.reference(self.steps)
        try:
            parameters, words = self.given(strategy)
            patch = autocache.patch(self.pipe, strategy, **parameters)
        except AutocacheError as error:
            return {"does_not_apply": str(error)}
        with patch:
            pictures, spent = self.draw(self.steps)
            stats = patch.stats()
        fewer = max(1, -(-self.steps * spent // cost))
        told = {"given": words} if words else {}
        return {
            **told,
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
    for name, case in CASES.items():
        runner = Runner(case, options.prompts, options.steps)
        figures[name] = {}
        for known in autocache.strategies():
            figures[name][known.name] = row = runner.row(known.name)
            print(name, known.name, row, flush=True)
    result = {
        "command": f"python benchmarks/defaults.py --prompts {options.prompts} "
        f"--steps {options.steps}",
        "prompts": options.prompts,
        "steps": options.steps,
        "machine": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "figures": json.loads(json.dumps(figures).replace("Infinity", '"inf"')),
    }
    path = ROOT / "benchmarks" / "results" / "defaults.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
