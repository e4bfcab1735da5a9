"""`autocache.compare`: several strategies on one pipeline, side by side."""

from __future__ import annotations

import importlib.util
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache.comparison import pictures
from autocache.comparison.entry import DEFAULT, PLAIN, Asked, Entry, entries
from autocache.comparison.figures import Comparison, Row, is_picture, quality, speed
from autocache.comparison.folder import Folder
from autocache.comparison.runs import AGAIN, Runs, Tell
from autocache.comparison.script import captured
from autocache.errors import AutocacheError, ParameterError
from autocache.tuning.conditions import machine
from autocache.tuning.identity import digest, identity
from autocache.tuning.made_for import versions
from autocache.tuning.workload import Input, Workload

if TYPE_CHECKING:
    import numpy as np

NEEDED = {"skimage": "scikit-image", "matplotlib": "matplotlib"}
OUT = Path("autocache-compare")


def compare(
    target: Any,
    strategies: Sequence[Asked] = DEFAULT,
    *,
    inputs: Sequence[Input] = (),
    call: Mapping[str, Any] | None = None,
    args: Sequence[str] = (),
    calls: int | None = None,
    seed: int = 0,
    batch: int = 8,
    rounds: int = 3,
    out: str | Path = OUT,
    fewer_steps: bool = True,
    tell: Tell | None = None,
) -> Comparison:
    """Run strategies on the same inputs from the same noise, and hold each against the plain run.

    Each is drawn once, its compute counted; then each is timed `rounds` times, a plain run right
    beside it. Fewer steps without a cache, as many as cost what a strategy costs, are the baseline.
    Into `out` go `figures.json`, `table.csv`, `grid.png`, `plot.svg`, `plot.png`, and all that was
    drawn; what is there already is not run again, so that an interrupted comparison goes on, and
    more strategies or rounds are added to it.

    Args:
        target: a diffusers pipeline, which is left as it was, or the path of a script that calls
            one. The script runs once; the calls it made are what strategies are compared on.
        strategies: each as the variable `AUTOCACHE` takes it ("teacache:threshold=0.1", the file of
            a profile), or a pair of a name and parameters.
        inputs: of a pipeline, prompts, or for each call the mapping of its arguments.
        call: of a pipeline, arguments that go with every call.
        args: of a script, its command line.
        calls: of a script, at most so many calls, after which it is ended; None for all. Calls of a
            single step, which warm up, are left out.
        seed: of the first input's noise; of a script, of torch where it gives no generator.
        batch: prompts drawn in one call of a pipeline.
        rounds: timed pairs for each strategy, 1 and up.
        out: folder for what is found, new, or of this same comparison.
        fewer_steps: whether to run the baseline.
        tell: told what is run, how much is done, and of how much, in runs of the plain pipeline.

    Raises:
        UnknownStrategyError: there is no strategy of such a name.
        ParameterError: a parameter is wrong, there are no inputs, or `out` holds something else.
        AutocacheError: the script failed, the pipeline computed nothing that can be counted, or the
            `report` extra is missing.
    """
    if rounds < 1:
        raise ParameterError(f"rounds={rounds}: expected 1 or more")
    _require()
    chosen = entries(strategies)
    if isinstance(target, (str, Path)):
        if inputs or call:
            raise ParameterError("a script has inputs of its own; inputs and call are a pipeline's")
        script = Path(target)
        workload = captured(script, args, seed=seed, calls=calls)
        asked = {
            "script": digest(script.read_text(encoding="utf-8")),
            "args": list(args),
            "calls": calls,
        }
    else:
        if args or calls is not None:
            raise ParameterError("args and calls are a script's; a pipeline takes inputs and call")
        workload = Workload(target, inputs, call=call, seed=seed, batch=batch)
        asked = {}
    folder = Folder(Path(out), _question(workload, asked))
    runs = Runs(workload, chosen, folder, rounds, fewer_steps, tell)
    runs.run()
    found = _found(runs)
    return _written(found, runs)


def _require() -> None:
    missing = [name for module, name in NEEDED.items() if not importlib.util.find_spec(module)]
    if missing:
        raise AutocacheError(
            f"a comparison needs {' and '.join(missing)}: pip install 'autocache[report]'"
        )


def _question(workload: Workload, asked: Mapping[str, Any]) -> dict[str, Any]:
    """All that the figures depend on, but for the strategies, which are files of their own."""
    pipe = workload.pipe
    return {
        **identity(workload, **asked),
        "model": str(getattr(pipe, "name_or_path", "") or type(pipe).__name__),
        "dtype": str(getattr(pipe, "dtype", "")),
        "machine": f"{machine(pipe)}, {platform.node()}",
        "versions": versions(),
    }


def _found(runs: Runs) -> Comparison:
    folder, workload = runs.folder, runs.workload
    plain, known = folder.read_samples(PLAIN.key), folder.read(PLAIN.key)
    kinds = {one.key: "fewer steps" for one in runs.fewer}
    rows = [Row(PLAIN.label, "plain", speedup=1.0, compute=1.0)]
    by_steps: dict[int, Row] = {}
    for one in runs.entries:
        row = _row(one, kinds.get(one.key, "strategy"), folder, plain)
        if row.kind == "fewer steps":
            by_steps[one.parameters["steps"]] = row
        elif (same := runs.same_cost(one, known["steps"])) in by_steps:
            row = _against(row, same, by_steps[same])
        rows.append(row)
    return Comparison(
        tuple(rows),
        rounds=runs.rounds,
        samples=len(plain),
        steps=known["steps"],
        machine=machine(workload.pipe),
        folder=folder.path,
    )


def _row(one: Entry, kind: Any, folder: Folder, plain: Sequence[np.ndarray]) -> Row:
    known = folder.read(one.key)
    if "problem" in known:
        return Row(one.label, kind, problem=known["problem"])
    return Row(
        one.label,
        kind,
        compute=known["compute"],
        bytes_peak=known["bytes_peak"],
        **quality(plain, folder.read_samples(one.key)),
        **speed(known["pairs"]),
    )


def _against(row: Row, steps: int, fewer: Row) -> Row:
    if row.psnr is None or fewer.psnr is None:
        return row
    gain = row.psnr - fewer.psnr if row.psnr != fewer.psnr else 0.0
    return replace(row, steps_same_cost=steps, psnr_gain=gain)


def _written(found: Comparison, runs: Runs) -> Comparison:
    """The files; what could not be drawn is a note."""
    folder, notes = found.folder, []
    if math.isfinite(again := runs.folder.read(PLAIN.key).get(AGAIN, math.inf)):
        notes.append(f"two plain runs differ by {again:.1f} dB; no figure is finer than that")
    samples = {
        row.name: runs.folder.read_samples(one.key)
        for row, one in zip(found.rows, [PLAIN, *runs.entries], strict=True)
        if not row.problem
    }
    if all(is_picture(one) for one in samples[PLAIN.label]):
        pictures.grid(folder / "grid.png", _labels(runs.workload, found.samples), samples)
        if found.samples > pictures.MOST_ROWS:
            notes.append(f"grid.png has the first {pictures.MOST_ROWS} samples")
    else:
        notes.append("what is drawn are no pictures: there is neither grid nor SSIM")
    if not pictures.plot(found, folder):
        notes.append("there is no plot, since no run differs from the plain one")
    found = replace(found, notes=tuple(notes))
    (folder / "table.csv").write_text(found.to_csv(), encoding="utf-8")
    (folder / "figures.json").write_text(found.to_json() + "\n", encoding="utf-8")
    return found


def _labels(workload: Workload, count: int) -> list[str]:
    """The prompt of each sample, or its number where that is not known."""
    prompts: list[str] = []
    for one in workload.inputs:
        given = one if isinstance(one, str) else one.get("prompt", "")
        prompts += [given] if isinstance(given, str) else list(given)
    return prompts if len(prompts) == count else [f"sample {nth}" for nth in range(count)]
