"""Write the measured part of README: `python tools/bench_docs.py` runs it with the others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import overhead_page

from autocache.demo import report

ROOT = Path(__file__).resolve().parents[1]
MEASURED = re.compile(r"(<!-- measured:begin -->\n).*(<!-- measured:end -->)", re.DOTALL)


def _numbers(value: Any) -> Any:
    """Undo `jsonable`: JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _numbers(entry) for key, entry in value.items()}
    return float(value) if value in ("inf", "-inf", "nan") else value


def measured(root: Path = ROOT) -> str:
    """The section between README's markers."""
    results = root / "benchmarks" / "results"
    demo = json.loads((results / "demo.json").read_text())
    overhead = json.loads((results / "overhead_machine.json").read_text())
    model = root / "autocache" / "demo" / "models" / "shapes" / "measurement.json"
    drawn = json.loads(model.read_text())
    ratios = overhead_page.never_skipping(overhead)
    steps = ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items())
    return "\n".join(
        [
            "![plain, cached, and four times their difference](docs/pictures/demo.png)",
            "",
            report.markdown(_numbers(demo["figures"])).rstrip(),
            f"(`{demo['command']}`, {demo['machine']}, torch {demo['versions']['torch']}).",
            "The bundled pipeline is small and quick to learn from; it says nothing about the",
            "speed-up of a large model. It draws "
            f"{drawn['attributes_right']:.1%} of the attributes of {drawn['prompts']} prompts it "
            f"was",
            f"not trained on (`{drawn['command']}`).",
            "",
            "Machine instructions of a step in which nothing is skipped, as a ratio to the plain",
            f"model's, on a FLUX of 57 blocks whose width is next to nothing: {steps}",
            f"(`{overhead['command']}`; [all methods and other libraries](docs/overhead.md)).",
            "",
        ]
    )


def files() -> dict[Path, str]:
    """README with its measured part as it follows from the results."""
    readme = ROOT / "README.md"
    return {readme: MEASURED.sub(lambda m: m[1] + measured() + m[2], readme.read_text())}
