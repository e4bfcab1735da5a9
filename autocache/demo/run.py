"""The demonstration: one plain diffusers script run without and with caching, and the difference.

The script (`examples/infer.py`) does not know of autocache; only the environment variable
`AUTOCACHE` differs between the runs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache import demo
from autocache.demo import checker, report, scenes
from autocache.demo.prompts import held_out
from autocache.errors import AutocacheError
from autocache.jsonable import jsonable
from autocache.metrics import mean_psnr, psnr, relative_l1, ssim

if TYPE_CHECKING:
    import numpy as np

PROFILE = Path(__file__).with_name("profiles") / "tuned_3x.yaml"
"""What `autocache.tune` made of the bundled pipeline: `python tools/tune_demo.py`."""
STRATEGIES = ("auto", str(PROFILE), "teacache", "dit_block", "attention")

Tell = Callable[[str], None]


def shown(strategy: str) -> str:
    """A strategy's name in the table: of a profile, that of its file."""
    return Path(strategy).stem if strategy.endswith(".yaml") else strategy


def infer_script() -> Path:
    """The plain inference script, beside this file in a wheel and in `examples/` of a checkout."""
    here = Path(__file__).resolve()
    for candidate in (here.with_name("infer.py"), here.parents[2] / "examples" / "infer.py"):
        if candidate.is_file():
            return candidate
    raise AutocacheError("infer.py of the demonstration is missing; reinstall autocache")


def _launch(
    arguments: Sequence[str], environment: dict[str, str], label: str, steps: int, tell: Tell
) -> None:
    """Run the script to its end, telling each denoising step as its progress bar reports it."""
    process = subprocess.Popen(
        [sys.executable, str(infer_script()), *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    last: deque[str] = deque(maxlen=20)
    tell(f"{label}: loading")
    try:
        assert process.stderr is not None
        for line in process.stderr:
            last.append(line)
            if found := re.search(rf"\b(\d+)/{steps}\b", line):
                tell(f"{label}: step {found[1]} of {steps}")
    finally:
        if process.poll() is None and sys.exc_info()[0] is not None:
            process.terminate()
        code = process.wait()
    if code:
        raise AutocacheError(f"the {label} run failed with exit status {code}:\n{''.join(last)}")


def _environment(strategy: str | None, stats: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AUTOCACHE")}
    # The script is always offline: the model is a folder on this machine.
    clean["HF_HUB_OFFLINE"] = "1"
    if strategy is not None:
        clean |= {"AUTOCACHE": strategy, "AUTOCACHE_STATS": str(stats)}
    return clean


def _stats(path: Path, strategy: str) -> dict[str, Any]:
    """The record the activation wrote at exit, of the one model it patched."""
    if not path.is_file():
        raise AutocacheError(
            f"the {strategy} run was not patched: AUTOCACHE={strategy} had no effect on "
            f"{sys.executable}; install autocache into that interpreter"
        )
    written = [entry for entry in json.loads(path.read_text()) if entry["passes"]]
    if len(written) != 1:
        raise AutocacheError(
            f"expected one patched model in the {strategy} run, got {len(written)}"
        )
    return written[0]


def share_run(calls: dict[str, Any], passes: int, warm_up: int) -> float | None:
    """Share of calls computed once the passes of the warm-up, all computed, are left out."""
    if not calls.get("total") or passes <= warm_up:
        return None
    skip = calls["total"] / passes * warm_up
    return (calls["run"] - skip) / (calls["total"] - skip)


def attributes(images: np.ndarray, captions: Sequence[str]) -> dict[str, Any]:
    """Share of caption attributes the checker reads back: overall, and each."""
    import torch

    pictures = torch.from_numpy(images).permute(0, 3, 1, 2)
    overall, each = checker.share(
        checker.check(picture, scenes.parse(caption))
        for picture, caption in zip(pictures, captions, strict=True)
    )
    return {"right": overall, "each": each}


def _against(
    plain: np.ndarray,
    plain_seconds: float,
    other: np.ndarray,
    seconds: float,
    captions: Sequence[str],
) -> dict[str, Any]:
    """How one run's time and pictures compare with the plain run's."""
    decibels = psnr(plain, other)
    return {
        "seconds": seconds,
        "time_ratio": plain_seconds / seconds,
        "psnr_mean": mean_psnr(decibels),
        "psnr_worst": min(decibels),
        "ssim": sum(ssim(plain, other)) / len(plain),
        "relative_l1": sum(relative_l1(plain, other)) / len(plain),
        "attributes": attributes(other, captions),
    }


def check(prompts: int, steps: int) -> None:
    """Raises AutocacheError where there are too few of them to compare anything."""
    if prompts < 1 or steps < 2:
        raise AutocacheError("the demonstration needs at least 1 prompt and 2 steps")


def run(
    out: Path,
    strategy: str | Sequence[str] = STRATEGIES,
    prompts: int = 8,
    steps: int = 28,
    *,
    seed: int = 0,
    guidance: float = 1.0,
    model: str | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Run the script plain and under each strategy, and write what differs into `out`.

    A strategy is what `AUTOCACHE` takes, as in `"teacache:threshold=0.2"`. Written are `grid.png`,
    `table.md`, `figures.json` (the returned figures), `steps.json` (each strategy's step record)
    and one folder per run. `tell` receives a line of progress now and then.

    Raises:
        AutocacheError: a run failed or was not patched, or the `report` extra is missing.
    """
    check(prompts, steps)
    report.require()
    import numpy as np

    chosen = [strategy] if isinstance(strategy, str) else list(dict.fromkeys(strategy))
    say = tell or (lambda line: None)
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    captions = held_out(prompts, seed)
    listing = out / "prompts.txt"
    listing.write_text("\n".join(captions) + "\n")

    def launch(
        name: str | None, label: str = "plain", steps: int = steps
    ) -> tuple[Path, np.ndarray, float]:
        label = shown(name) if name else label
        folder = out / re.sub(r"[^\w.=-]+", "_", label)
        folder.mkdir(exist_ok=True)
        record = folder / "stats.json"
        record.unlink(missing_ok=True)
        arguments = [
            "--model",
            model or demo.path(),
            "--prompts",
            str(listing),
            "--out",
            str(folder),
        ]
        arguments += ["--steps", str(steps), "--seed", str(seed), "--guidance", str(guidance)]
        _launch(arguments, _environment(name, record), label, steps, say)
        seconds = json.loads((folder / "timing.json").read_text())["seconds"]
        return record, np.load(folder / "images.npy"), seconds

    _, plain, plain_seconds = launch(None)
    # The honest baseline of every cache: the same compute spent on fewer steps.
    fewer = max(1, steps // 2)
    _, hurried, hurried_seconds = launch(None, f"{fewer} steps", fewer)
    figures: dict[str, Any] = {
        "prompts": prompts,
        "steps": steps,
        "seed": seed,
        "guidance": guidance,
        "plain": {"seconds": plain_seconds, "attributes": attributes(plain, captions)},
        "fewer_steps": {
            "steps": fewer,
            **_against(plain, plain_seconds, hurried, hurried_seconds, captions),
            "blocks_run": fewer / steps,
            "attention_run": fewer / steps,
        },
        "strategies": {},
    }
    pictures, records = {}, {}
    for name in chosen:
        record, cached, seconds = launch(name)
        stats = _stats(record, name)
        # The script warms up with one step: one pass, or two when a negative prompt is run too.
        warm_up = 2 if guidance > 1 else 1
        pictures[shown(name)], records[shown(name)] = cached, stats.pop("steps")
        figures["strategies"][shown(name)] = {
            **_against(plain, plain_seconds, cached, seconds, captions),
            "blocks_run": share_run(stats["block_calls"], stats["passes"], warm_up),
            "attention_run": share_run(stats["attention_calls"], stats["passes"], warm_up),
            "stats": stats,
        }
    report.grid(out / "grid.png", captions, plain, pictures)
    (out / "table.md").write_text(report.markdown(figures))
    (out / "steps.json").write_text(json.dumps(jsonable(records), indent=1) + "\n")
    (out / "figures.json").write_text(json.dumps(jsonable(figures), indent=2) + "\n")
    return figures
