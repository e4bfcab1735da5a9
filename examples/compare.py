"""Several strategies on the same prompts and noise: speed against quality, and fewer steps beside.

    pip install '.[report]'
    python examples/compare.py

Writes pictures, a plot and the figures to `build/examples/compare`; run again, it goes on with what
is there. `autocache compare` does the same from the command line, with a script of yours too.
"""

from __future__ import annotations

from pathlib import Path

from diffusers import FluxPipeline
from rich.console import Console

import autocache
from autocache.comparison.table import table
from autocache.demo.prompts import held_out

CALL = {"num_inference_steps": 28, "height": 64, "width": 64, "max_sequence_length": 24}
OUT = Path("build/examples/compare")
PROFILE = str(Path(__file__).with_name("profile.yaml"))


def main() -> None:
    pipe = FluxPipeline.from_pretrained(autocache.demo.path())
    pipe.set_progress_bar_config(disable=True)

    found = autocache.compare(
        pipe,
        ["auto:speedup=2", "fbcache", PROFILE],
        inputs=held_out(2),
        call=CALL,
        rounds=1,
        out=OUT,
    )

    Console(width=120).print(table(found))
    print(f"pictures, plot and figures: {OUT}")


if __name__ == "__main__":
    main()
