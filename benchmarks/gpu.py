"""Full-size denoisers on a GPU: `python benchmarks/gpu.py`.

Wall time of every step, ours and the peers', with weights drawn at random on the device; so it says
nothing of quality. A row is written as soon as it is measured, and a second run goes on where the
first one stopped. Without a GPU nothing is measured. `--device cpu --tiny` runs all of it in small.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_device
import torch

import gpu_row
import gpu_sizes
from gpu_contestants import contestants
from gpu_models import Model, models
from machine import host, versions

RESULTS = Path(__file__).parent / "results"
MODES = ("eager", "compiled")
Rows = dict[str, dict[str, dict[str, Any]]]


def main() -> None:
    options = parser().parse_args()
    if options.sizes:
        _write_sizes(options.out or RESULTS / "gpu_sizes.json", options.tiny)
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here, so nothing was measured; --device cpu --tiny tries it in small")
        return
    options.out = options.out or RESULTS / "gpu.json"
    device = torch.device(options.device)
    result = _open(options, device)
    began, left = time.monotonic(), 0
    for model in models(options.tiny).values():
        rows = result["models"].setdefault(model.name, {mode: {} for mode in MODES})
        for mode, name in _missing(model, rows, options):
            if time.monotonic() - began > options.minutes * 60:
                left += 1
                continue
            rows[mode][name] = row = _row(model, name, mode, device, options.backend)
            _write(options.out, result)
            print(f"{model.name:<14} {mode:<8} {name:<42} {_said(row)}", flush=True)
        _forget()
    if left:
        print(f"{left} rows are left: the time is over; the same command goes on with them")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--device", default="cuda")
    made.add_argument("--tiny", action="store_true", help="the same classes of tiny width")
    made.add_argument("--model", action="append", help="one of the listing; all by default")
    made.add_argument("--row", action="append", help="a contestant; all by default")
    made.add_argument("--backend", default="inductor", help="what compiled blocks are made by")
    made.add_argument("--minutes", type=float, default=9.0, help="no row begins after that")
    made.add_argument("--sizes", action="store_true", help="what is needed; measures nothing")
    made.add_argument("--out", type=Path)
    return made


def _open(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What there is of this result, or a new one.

    Raises:
        SystemExit: the file is of another machine or other versions.
    """
    tiny = " --tiny" if options.tiny else ""
    header = {
        "command": f"python benchmarks/gpu.py --device {options.device}{tiny}",
        "device": gpu_device.name(device),
        "host": host(),
        "versions": versions("cache-dit", "DeepCache"),
        "type": "bfloat16",
        "backend": options.backend,
    }
    if not options.out.exists():
        return {**header, "models": {}}
    known = json.loads(options.out.read_text())
    other = [key for key, value in header.items() if known.get(key) != value]
    if other:
        raise SystemExit(
            f"{options.out} was measured with another {', '.join(other)}; give another --out, or "
            "delete it"
        )
    return known


def _missing(model: Model, rows: Rows, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The rows that are asked for and not measured yet."""
    wanted = [("eager", name) for name in contestants(model)]
    wanted += [("compiled", name) for name in model.compiled]
    for mode, name in wanted if model.name in (options.model or [model.name]) else ():
        if name not in rows[mode] and name in (options.row or [name]):
            yield mode, name


_present: dict[str, Any] = {}
"""The loop of the model that is on the device."""


def _row(model: Model, name: str, mode: str, device: torch.device, backend: str) -> dict[str, Any]:
    contestant = contestants(model)[name]
    if model.name not in _present:
        _forget()
        _present[model.name] = model.build(device, torch.bfloat16)
    row = gpu_row.measure(
        _present[model.name],
        contestant,
        model.steps,
        device,
        backend if mode == "compiled" else None,
    )
    if contestant.leaves_traces:
        _forget()
    return {"pattern": contestant.pattern, **row}


def _forget() -> None:
    _present.clear()
    gpu_device.free()


def _said(row: dict[str, Any]) -> str:
    if "total_ms" in row:
        return f"{row['total_ms']:10.1f} ms"
    return next(f"{key}: {value}" for key, value in row.items() if key != "pattern")


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def _write_sizes(path: Path, tiny: bool) -> None:
    result: dict[str, Any] = {
        "command": "python benchmarks/gpu.py --sizes",
        "versions": versions(),
        "models": {},
    }
    for model in models(tiny).values():
        found = gpu_sizes.sizes(model)
        about = {"title": model.title, "source": model.source, "published": model.parameters}
        result["models"][model.name] = {**about, "steps": model.steps, **found}
        _write(path, result)
        print(model.name, found, flush=True)


if __name__ == "__main__":
    main()
