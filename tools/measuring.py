"""What the measurements of the bundled pipelines share: where they ran and how they are kept."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from autocache.demo.checker import share


def processor() -> str:
    """The processor's name as Linux gives it, else whatever the platform module knows."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def read_options(
    description: str, model: Path, *, prompts: int, steps: int, guidance: float, batch: int
) -> argparse.Namespace:
    """The command line of a measurement, the same for all pipelines but for its defaults."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=model)
    parser.add_argument("--prompts", type=int, default=prompts)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=guidance)
    parser.add_argument("--batch", type=int, default=batch)
    return parser.parse_args()


def measure(
    options: argparse.Namespace,
    captions: Sequence[str],
    draw: Callable[[list[str], list[torch.Generator]], Iterable[torch.Tensor]],
    check: Callable[[torch.Tensor, str], dict[str, bool]],
    what: str,
) -> None:
    """Draw captions batch by batch, check what was drawn and write the measurement.

    `draw` gets captions and a generator for each; `what` names the things it draws.
    """
    answers, began = [], time.perf_counter()
    for start in range(0, len(captions), options.batch):
        chunk = list(captions[start : start + options.batch])
        seeds = range(options.seed + start, options.seed + start + len(chunk))
        drawn = draw(chunk, [torch.Generator().manual_seed(seed) for seed in seeds])
        answers += [check(one, caption) for one, caption in zip(drawn, chunk, strict=True)]
        print(f"{len(answers)}/{len(captions)} right {share(answers)[0]:.3f}", flush=True)
    write_measurement(options, answers, time.perf_counter() - began, what)


def write_measurement(
    options: argparse.Namespace, answers: Sequence[dict[str, bool]], seconds: float, what: str
) -> None:
    """Write measurement.json into the folder `options.model` and print it.

    `what` names the things drawn (pictures, clips); the other options are kept and, with the
    script's name, make the command that repeats the measurement.
    """
    overall, each = share(answers)
    settings = {name: value for name, value in vars(options).items() if name != "model"}
    arguments = [f"--{name} {value}" for name, value in settings.items()]
    measurement = settings | {
        "attributes_right": round(overall, 4),
        "attributes": {name: round(value, 4) for name, value in each.items()},
        f"{what}_all_right": round(sum(all(a.values()) for a in answers) / len(answers), 4),
        "seconds": round(seconds, 1),
        "machine": {
            "processor": processor(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "command": " ".join([f"python tools/{Path(sys.argv[0]).name}", *arguments]),
    }
    written = json.dumps(measurement, indent=2) + "\n"
    (options.model / "measurement.json").write_text(written)
    print(written, end="")
    for name, value in sorted(each.items(), key=lambda entry: entry[1]):
        print(f"{value:7.1%}  {name}")
