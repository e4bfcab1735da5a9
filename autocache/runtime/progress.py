"""How far a generation has come at each of its steps, from noise to picture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def progress(scheduler: Any) -> tuple[float, ...] | None:
    """The share of the way that lies behind at each of the scheduler's timesteps, from 0.

    It is measured where the denoiser's output is the direction of it. Flow matching goes along the
    line from noise to picture: the way is that of the noise level. Elsewhere a latent is
    `cos(phi) * picture + sin(phi) * noise` but for its scale, and the way is that of phi. Both are
    those from the first timestep to 0. None where the scheduler does not tell its noise levels.
    """
    left = _left(scheduler)
    if left is None or len(left) < 2 or not left[0] > 0:
        return None
    return tuple(float(1 - now / left[0]) for now in left)


def _left(scheduler: Any) -> np.ndarray | None:
    """The noise level or the angle that is left at each timestep."""
    config = getattr(scheduler, "config", {})
    times = _array(getattr(scheduler, "timesteps", None))
    sigmas = _array(getattr(scheduler, "sigmas", None))
    if "FlowMatch" in type(scheduler).__name__ or config.get("use_flow_sigmas"):
        return None if sigmas is None else sigmas[: _count(times, sigmas)]
    kept = _array(getattr(scheduler, "alphas_cumprod", None))
    if kept is not None and times is not None:
        alphas = np.interp(times, np.arange(len(kept)), kept)
        return np.arccos(np.sqrt(np.clip(alphas, 0, 1)))
    data = config.get("sigma_data")
    if data and sigmas is not None:
        return np.arctan(sigmas / data)[: _count(times, sigmas)]
    return None


def _count(times: np.ndarray | None, sigmas: np.ndarray) -> int:
    # The noise level after the last step is among them.
    return len(sigmas) - 1 if times is None else min(len(times), len(sigmas))


def _array(values: Any) -> np.ndarray | None:
    if values is None:
        return None
    made = np.asarray([float(value) for value in values], dtype=float)
    return made if made.size and all(map(math.isfinite, made)) else None
