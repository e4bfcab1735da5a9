"""Tables for TeaCache and MagCache, measured on a model of one's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from autocache.api import patched
from autocache.errors import CalibrationError, ParameterError, nearest
from autocache.tuning import calibrate_magcache, calibrate_teacache
from autocache.tuning.calibration import Calibrated, Calibration, Made, identity
from autocache.tuning.recording import Recorder, Recording, Series
from autocache.tuning.unpatched import unpatched
from autocache.tuning.workload import Input, Workload

if TYPE_CHECKING:
    from autocache.spec.schema import Spec
    from autocache.tuning.calibrate_teacache import TeaCacheFit

logger = logging.getLogger("autocache")

StrategyName = Literal["teacache", "magcache"]
NAMES = ("teacache", "magcache")
MIN_RANK = 0.7
"""Rank correlation at which a probe orders the changes of the output well enough to place computed
steps by, though the polynomial may be off in their size."""
NO_TABLE = (
    "auto and autocache.tune need no table; force=True (--force) writes this one with its figures"
)


def calibrate(
    pipe: Any,
    inputs: Sequence[Input],
    *,
    strategy: StrategyName | Sequence[StrategyName] = NAMES,
    call: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch: int = 1,
    probe: str | None = None,
    order: int = 4,
    warmup_steps: int = 1,
    min_r2: float = 0.5,
    force: bool = False,
    id: str | None = None,
    spec: Any = None,
    tell: Callable[[int], None] | None = None,
) -> Calibration:
    """Draw every input once without cache, and make tables for this model of what was measured.

    TeaCache: x is the relative L1 change of a probe from one step to the next, y that of the
    denoiser's output; a polynomial p(x) = y is fitted by least squares to the pairs of all steps,
    inputs and guidance branches together, each branch being compared with itself. Guidance in one
    batch is measured as teacache measures it, over the whole batch. MagCache: for each step, the
    mean over tokens, then inputs, of |R_i| / |R_(i-1)|, R being what all blocks add to the latent
    stream; guidance branches called one after the other have ratios of their own.

    A table is refused where it would tell nothing. TeaCache's: the polynomial, fitted to some of
    the inputs, explains on the others less than `min_r2` of the variance, and the rank correlation
    of what it says with what was is below 0.7. MagCache's: the ratios of a step differ between
    inputs by more (standard deviation) than 0.06, the error that may add up by default, or the
    residual turns from step to step, by a median cosine distance above 0.1.

    Args:
        pipe: a diffusers pipeline; a patch of it is off meanwhile.
        inputs: prompts, or for each call the mapping of its arguments. TeaCache's authors took 70
            prompts; 10 show whether it can work. MagCache's authors took one.
        strategy: which tables to make. Where one of two is refused, the log says so, and
            `Calibration.refused` holds the reason.
        call: arguments that go with every call; resolution, number of steps, guidance and scheduler
            should be those of later use.
        seed: of the first input's noise; the others count on from it.
        batch: prompts drawn in one call, and then measured together.
        probe: of the spec's probes; without it, the one that explains most on inputs left out.
        order: of the polynomial.
        warmup_steps: first steps that are left out of the fit, and that the table has computed.
        min_r2: see above.
        force: make the tables whatever they are worth.
        id: of the tables; by default the checkpoint's name with `-calibrated` behind it.
        spec: as `autocache.patch` takes it.
        tell: told after every call how many inputs are done.

    Raises:
        CalibrationError: every table that was asked for is refused.
        DoesNotApplyError: the model has no blocks.
        ParameterError: the strategy or probe is unknown, or there are no inputs.
        UnknownModelError: no spec describes the model.

    Source: arXiv 2411.19108 (TeaCache), arXiv 2506.09045 (MagCache).
    """
    names = [strategy] if isinstance(strategy, str) else list(strategy)
    for name in names:
        if name not in NAMES:
            raise ParameterError(f"there are no tables for {name!r}{nearest(name, NAMES)}")
    workload = Workload(pipe, inputs, call=call, seed=seed, batch=batch)
    by_model = _by_spec(record(workload, names, probe, spec, tell))
    found: list[Calibrated] = []
    refused: dict[str, str] = {}
    for name in names:
        for series in by_model:
            made = Made(workload, identity(pipe, series), warmup_steps, id)
            try:
                if name == "teacache":
                    found.append(_teacache(series, made, probe, order, min_r2, force))
                else:
                    found.append(_magcache(series, made, force))
            except CalibrationError as error:
                refused[f"{name} on {series[0].spec.name}"] = str(error)
    if not found:
        raise CalibrationError("\n".join(refused.values()))
    for reason in refused.values():
        logger.warning("%s", reason)
    return Calibration(tuple(found), refused)


def record(
    workload: Workload,
    names: Sequence[str],
    probe: str | None = None,
    spec: Any = None,
    tell: Callable[[int], None] | None = None,
) -> list[Series]:
    """What moved how much in each step, of one run of every input without cache.

    A patch of the pipeline's is off meanwhile.
    """
    recorder = Recorder()
    recording = Recording.create(
        recorder=recorder,
        residual="magcache" in names,
        probes="teacache" in names,
        probe=probe,
    )
    with unpatched(workload.pipe), patched(workload.pipe, recording, spec=spec):
        for first in range(0, len(workload.inputs), workload.batch):
            recorder.entry = first
            part = workload.among(first, first + workload.batch)
            part.run(pictures=False)
            if tell:
                tell(first + len(part.inputs))
    return recorder.series


def _by_spec(series: Sequence[Series]) -> list[list[Series]]:
    """Two experts of one class share their spec, and with it the tables."""
    groups: dict[str, list[Series]] = {}
    for one in series:
        groups.setdefault(one.spec.model, []).append(one)
    if not groups:
        raise CalibrationError("nothing was measured: give the calls two steps at least")
    return list(groups.values())


def _teacache(
    series: list[Series], made: Made, probe: str | None, order: int, min_r2: float, force: bool
) -> Calibrated:
    spec = series[0].spec
    if not spec.probes:
        raise CalibrationError(f"teacache measures a probe, and {spec.name} has none (probes:)")
    fits, problems = [], []
    for name in [probe] if probe else spec.probes:
        try:
            found = calibrate_teacache.pairs(series, name, made.warmup_steps)
            fits.append(calibrate_teacache.fit(found, order, made.warmup_steps))
        except CalibrationError as error:
            problems.append(f"teacache on {spec.name}: {error}")
    if not fits:
        raise CalibrationError("\n".join(problems))
    best = max(fits, key=lambda one: one.score)
    others = tuple(fit for fit in fits if fit is not best)
    if not (force or best.predicts(min_r2, MIN_RANK)):
        raise CalibrationError(_not_predicted(spec, best, others, min_r2))
    return made.teacache(spec, best, others)


def _magcache(series: list[Series], made: Made, force: bool) -> Calibrated:
    fit, spec = calibrate_magcache.fit(series), series[0].spec
    faults = fit.faults()
    if faults and not force:
        raise CalibrationError(
            f"magcache on {spec.name}: these ratios do not tell which steps may be skipped: "
            f"{'; '.join(faults)}. {NO_TABLE}"
        )
    return made.magcache(spec, fit)


def _not_predicted(
    spec: Spec, best: TeaCacheFit, others: Sequence[TeaCacheFit], min_r2: float
) -> str:
    wanted = f"expected R² of {min_r2} at least, or a rank correlation of {MIN_RANK}"
    more = "; no probe of the spec does better: " + ", ".join(map(str, others)) if others else ""
    known = [name for name in spec.probes if name != best.probe and not others]
    other = f"another probe may do better ({', '.join(known)}); " if known else ""
    if best.held_out_r2 is None:
        other += "give two inputs at least; "
    return (
        f"teacache on {spec.name}: the change of the probe does not tell that of the output. "
        f"{best} ({best.pairs} pairs, {best.inputs} inputs); {wanted}{more}. More inputs may help; "
        f"{other}{NO_TABLE}"
    )
