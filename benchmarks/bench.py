"""One bundled pipeline, with or without guidance, and the prompts it is measured on."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from autocache.metrics import psnr
from autocache.tuning.workload import Drawn, Workload
from cases import Case
from figures import figures, share_right
from variants import Trial, Variant

SPEEDUPS = (2, 3, 4)
STEPS = 28
OVER = 1.02
"""How far the compute of a setting may lie above what the speed-up allows."""
MEASURED, CHOSEN_ON, TUNED_ON = 64, 4, 24
"""Prompts of the figures, those that settings are chosen on, and those of tuning."""
CLIPS_TUNED_ON = 12
HELD_OUT = 4
"""Prompts that a profile is checked on while it is tuned."""
BATCH = 32


class Bench:
    """A bundled pipeline; the prompts and the noise of the figures serve nothing else."""

    def __init__(self, case: Case, guidance: bool) -> None:
        self.case, self.guidance = case, guidance
        self.name = f"{case.name}/{'guided' if guidance else 'plain'}"
        chosen_on = case.prompts(CHOSEN_ON, 1)
        self.tuned_on = CLIPS_TUNED_ON if case.name == "shapes_wan" else TUNED_ON
        self.tuning = case.prompts(self.tuned_on + HELD_OUT, 2)
        used = {*chosen_on, *self.tuning}
        self.measured = [one for one in case.prompts(2 * MEASURED, 0) if one not in used][:MEASURED]
        assert len(self.measured) == MEASURED
        self.chosen_on = chosen_on

    @cached_property
    def pipe(self) -> Any:
        """The pipeline, loaded when it is first asked for."""
        return self.case.load()

    @cached_property
    def measuring(self) -> Workload:
        """The prompts of the figures."""
        return self.workload(self.measured, 0)

    @cached_property
    def choosing(self) -> Workload:
        """The prompts that settings are chosen on."""
        return self.workload(self.chosen_on, 1000)

    def workload(self, prompts: list[str], seed: int) -> Workload:
        """Prompts, drawn from noise that is counted on from a seed."""
        call = self.case.call(self.guidance, STEPS)
        return Workload(self.pipe, prompts, call=call, seed=seed, batch=BATCH)

    @cached_property
    def plain(self) -> Drawn:
        """What the plain pipeline draws of the prompts of the figures."""
        return self.measuring.run(count=True)

    @cached_property
    def _chosen_against(self) -> Drawn:
        return self.choosing.run(count=True)

    def trial(self, variant: Variant, parameters: dict[str, Any]) -> Trial:
        """A setting on the prompts that settings are chosen on."""
        plain = self._chosen_against
        with variant.install(self.pipe, parameters):
            drawn = self.choosing.run(count=True)
        return Trial(variant, parameters, _share(drawn, plain), psnr(_rows(plain), _rows(drawn)))

    def measure(self, variant: Variant, parameters: dict[str, Any]) -> dict[str, Any]:
        """A setting's figures."""
        plain = self.plain
        with variant.install(self.pipe, parameters):
            drawn = self.measuring.run(count=True)
        settings = {"settings": parameters, "compute": round(_share(drawn, plain), 4)}
        return settings | figures(plain.samples, drawn.samples, self.measured, self.case.check)

    def uncached(self) -> dict[str, Any]:
        """The plain pipeline's own figures: multiply-accumulates, and attributes read."""
        assert self.plain.compute
        return {
            "macs_per_prompt": self.plain.compute // 2 // MEASURED,
            "attributes": share_right(self.plain.samples, self.measured, self.case.check),
        }


def _share(drawn: Drawn, plain: Drawn) -> float:
    assert drawn.compute
    assert plain.compute
    return drawn.compute / plain.compute


def _rows(drawn: Drawn) -> np.ndarray:
    """A row of values for each sample, so that a clip has one PSNR."""
    return np.stack([one.ravel() for one in drawn.samples])
