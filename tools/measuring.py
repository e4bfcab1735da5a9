"""What the measurements of the bundled pipelines share: where they ran and how they are kept."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from autocache.demo.checker import share


def processor() -> str:
    """The processor's name as Linux gives it, else whatever the platform module knows."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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
