"""How long a method takes against the plain pipeline, in turns within one process."""

from __future__ import annotations

import statistics
import time
from typing import Any

from bench import Bench
from variants import Variant

PROMPTS, TURNS = 4, 3


def ratio(bench: Bench, variant: Variant, parameters: dict[str, Any]) -> dict[str, Any]:
    """Time to the last latent as a share of the plain pipeline's: the median of the turns.

    Neither the decoder nor the count of compute takes part. `wall` goes by the clock, which on a
    machine with other work varies, as `wall_range` shows; `cpu` is processor time.
    """
    workload = bench.workload(bench.measured[:PROMPTS], 0)
    walls, processors = [], []
    for _ in range(TURNS):
        plain = _spent(workload)
        with variant.install(bench.pipe, parameters):
            method = _spent(workload)
        walls.append(method[0] / plain[0])
        processors.append(method[1] / plain[1])
    return {
        "wall": round(statistics.median(walls), 3),
        "wall_range": [round(min(walls), 3), round(max(walls), 3)],
        "cpu": round(statistics.median(processors), 3),
    }


def _spent(workload: Any) -> tuple[float, float]:
    began = time.perf_counter(), time.process_time()
    workload.run(pictures=False)
    return time.perf_counter() - began[0], time.process_time() - began[1]
