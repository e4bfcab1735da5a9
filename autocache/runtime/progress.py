"""How far a generation has come at each of its steps, from noise to picture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def progress(scheduler: Any) -> tuple[float, ...] | None:
    """The share of the way that lies behind at each of the scheduler's timesteps, from 0.

    A latent is `a * picture + b * noise`; the way is that of the share of noise, `b / (a + b)`,
    from the first timestep to 0. In flow matching that is the noise level. None where the scheduler
    does not tell its noise levels.
    """
    noise = _noise(scheduler)
    if noise is None or len(noise) < 2 or not noise[0] > 0:
        return None
    return tuple(float(1 - now / noise[0]) for now in noise)


def _noise(scheduler: Any) -> np.ndarray | None:
    """The share of noise at each timestep."""
    config = getattr(scheduler, "config", {})
    times = _array(getattr(scheduler, "timesteps", None))
    sigmas = _array(getattr(scheduler, "sigmas", None))
    if "FlowMatch" in type(scheduler).__name__ or config.get("use_flow_sigmas"):
        return None if sigmas is None else sigmas[: _count(times, sigmas)]
    kept = _array(getattr(scheduler, "alphas_cumprod", None))
    if kept is not None and times is not None:
        alphas = np.interp(times, np.arange(len(kept)), kept)
        of_picture, of_noise = np.sqrt(alphas.clip(0, 1)), np.sqrt((1 - alphas).clip(0, 1))
        return of_noise / (of_picture + of_noise)
    data = config.get("sigma_data")
    if data and sigmas is not None:
        return (sigmas / (sigmas + data))[: _count(times, sigmas)]
    return None


def _count(times: np.ndarray | None, sigmas: np.ndarray) -> int:
    # The noise level after the last step is among them.
    return len(sigmas) - 1 if times is None else min(len(times), len(sigmas))


def _array(values: Any) -> np.ndarray | None:
    if values is None:
        return None
    # At once: number by number a device would be waited for as often.
    made = np.asarray(values.tolist() if hasattr(values, "tolist") else values, dtype=float)
    return made if made.size and all(map(math.isfinite, made)) else None
