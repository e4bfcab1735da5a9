"""One bundled pipeline on which ways to save compute are chosen, and measured on other prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from autocache.metrics import psnr
from autocache.tuning.workload import Workload
from cases import Case
from variants import Trial, Variant, best, trials

SPEEDUPS = (2, 3, 4)
STEPS = 28
MEASURED, CHOSEN_ON = 16, 4
"""Prompts of the figures, and those that settings are chosen on."""
OVER = 1.02
"""How far the compute of a setting may lie above what the speed-up allows."""


class Bench:
    """A bundled pipeline, with or without guidance, and the prompts it is measured on."""

    def __init__(self, case: Case, guidance: bool) -> None:
        self.case, self.guidance = case, guidance
        self.name = f"{case.name}/{'guided' if guidance else 'plain'}"
        self.pipe = case.load()
        measured = case.prompts(MEASURED, 0)
        others = [one for one in case.prompts(4 * CHOSEN_ON, 1) if one not in measured]
        self.measuring = self.workload(measured, 0)
        self.choosing = self.workload(others[:CHOSEN_ON], 1000)
        self._plain: dict[Workload, tuple[np.ndarray, int]] = {}

    def workload(self, prompts: list[str], seed: int) -> Workload:
        """Prompts, drawn from noise that is counted on from a seed."""
        return Workload(
            self.pipe, prompts, call=self.case.call(self.guidance, STEPS), seed=seed, batch=8
        )

    def draw(self, workload: Workload, **arguments: Any) -> tuple[np.ndarray, int]:
        """What was drawn, one row of values in [0, 1] for each sample, and the compute."""
        drawn = workload.run(count=True, **arguments)
        assert drawn.compute
        return np.stack([one.ravel() for one in drawn.samples]), drawn.compute

    def plain(self, workload: Workload) -> tuple[np.ndarray, int]:
        """The same of the plain pipeline at the full number of steps."""
        if workload not in self._plain:
            self._plain[workload] = self.draw(workload)
        return self._plain[workload]

    def against(self, workload: Workload, **arguments: Any) -> tuple[float, list[float]]:
        """Compute as a share of the plain pipeline's, and PSNR of each sample."""
        reference, cost = self._plain[workload]
        samples, spent = self.draw(workload, **arguments)
        return spent / cost, psnr(reference, samples)

    def trial(self, workload: Workload, variant: Variant, parameters: dict[str, Any]) -> Trial:
        """A setting on a workload."""
        self.plain(workload)
        with variant.install(self.pipe, parameters):
            compute, each = self.against(workload)
        return Trial(variant, parameters, compute, each)

    def row(self, variants: list[Variant]) -> dict[str, Any]:
        """The best of a method's settings at each speed-up, or why it does not apply."""
        failures: dict[str, int] = {}
        done: list[Trial] = []

        def attempt(variant: Variant, parameters: dict[str, Any]) -> Trial:
            trial = self.trial(self.choosing, variant, parameters)
            done.append(trial)
            return trial

        limits = [OVER / speedup for speedup in SPEEDUPS]
        for variant in variants:
            try:
                trials([variant], limits, attempt)
            except Exception as error:  # a peer may raise anything
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                failures[reason] = failures.get(reason, 0) + 1
        if not done:
            return {"does_not_apply": next(iter(failures))}
        row: dict[str, Any] = {
            "settings_tried": len(done),
            "least_compute": round(min(trial.compute for trial in done), 4),
        }
        if failures:
            row["failed"] = failures
        return row | {str(speedup): found for speedup, found in self._measured(done)}

    def _measured(self, done: list[Trial]) -> Iterator[tuple[int, dict[str, Any]]]:
        measured: dict[str, Trial] = {}
        for speedup in SPEEDUPS:
            chosen = best(done, OVER / speedup)
            if chosen is None:
                continue
            key = f"{id(chosen.variant)} {chosen.parameters}"
            if key not in measured:
                measured[key] = self.trial(self.measuring, chosen.variant, chosen.parameters)
            yield speedup, figures(measured[key]) | {"chosen_at": round(chosen.mean, 2)}


def figures(trial: Trial) -> dict[str, Any]:
    """What is written of a measured setting."""
    return {
        "settings": trial.parameters,
        "compute": round(trial.compute, 4),
        "psnr": round(trial.mean, 2),
        "psnr_p10": round(float(np.percentile(trial.psnr, 10)), 2),
        "worst": round(min(trial.psnr), 2),
    }
