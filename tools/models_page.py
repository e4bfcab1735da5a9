"""Write docs/models.md from the bundled specs: `python tools/models_page.py`.

Which strategies apply is found by patching the tiny model of each spec's proof. What a checkpoint
would have to bring (coefficients, ratios) is given for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import autocache
from autocache.authoring.instance import model_of
from autocache.errors import AutocacheError
from autocache.spec import registry
from autocache.spec.schema import Spec

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"

GIVEN: dict[str, dict[str, Any]] = {
    "teacache": {"coefficients": (1.0, 0.0)},
    "customcache": {"coefficients": (1.0, 0.0)},
    "magcache": {"ratios": (1.0, 1.0)},
    "schedule": {"steps": (0,), "total": 2},
}
"""Stands for the tables of a checkpoint, and for what `tune` finds."""

ABOUT = """# Models

Every denoiser of diffusers has a spec in `model_specs/`, and every one of them is proven on a tiny
model with random weights: `autocache specs verify --all` builds it, checks each fact of the spec
against it, skips each range of blocks and compares with a recomposition of its own. The test suite
does so with the versions named below. *Loops* are the pipelines whose real denoising loop is part
of that proof. *Tables* are published calibration figures: of TeaCache and of MagCache, for the
checkpoints that `autocache specs show NAME` lists. *Parts* are what strategies can skip.

A class that is not here gets a spec of its own: [adding a model](adding_a_model.md).
"""


def refused(spec: Spec) -> dict[str, str]:
    """The strategies that do not apply to a model, each with the reason it gives."""
    model, found = model_of(spec), {}
    for known in autocache.strategies():
        try:
            autocache.patch(model, known.name, **GIVEN.get(known.name, {}), spec=spec).unpatch()
        except AutocacheError as error:
            found[known.name] = str(error)
    return found


def parts(spec: Spec) -> str:
    """What there is to skip."""
    found = [f"{stack.path}{' (each)' if stack.each else ''}" for stack in spec.stacks]
    kinds = {kind for stack in spec.stacks for kind in stack.attention.values()}
    kinds |= set(spec.attention.values())
    found += ["levels"] if spec.unet else []
    found += [f"attention ({', '.join(sorted(kinds))})"] if kinds else []
    found += ["invariant modules"] if spec.invariant else []
    return ", ".join(found) or "the whole call"


def tables(spec: Spec) -> str:
    """How many calibration tables it has, and how many of them are borrowed."""
    counts = []
    for name, entries in (("TeaCache", spec.teacache), ("MagCache", spec.magcache)):
        borrowed = sum(entry.fitted_on is not None for entry in entries)
        if entries:
            counts.append(f"{len(entries)} {name}" + (f" ({borrowed} borrowed)" * bool(borrowed)))
    return ", ".join(counts)


def rows(specs: list[Spec], missing: dict[str, dict[str, str]]) -> Iterator[str]:
    """One row of the table per class."""
    yield "| class | pipelines | loops | parts | tables | does not apply | proven on |"
    yield "|---|---|---|---|---|---|---|"
    for spec in specs:
        assert spec.proof is not None
        pipelines = ", ".join(name.removesuffix("Pipeline") for name in spec.guidance)
        loops = ", ".join(label.removesuffix("Pipeline") for label in spec.proof.pipelines)
        cells = (
            f"`{spec.name}`",
            pipelines,
            loops,
            parts(spec),
            tables(spec),
            ", ".join(missing[spec.name]),
            spec.proof.package,
        )
        yield "| " + " | ".join(cells) + " |"


def reasons(specs: list[Spec], missing: dict[str, dict[str, str]]) -> Iterator[str]:
    """What the strategies say, each thing once."""
    said: dict[str, list[str]] = {}
    for spec in specs:
        for strategy, text in missing[spec.name].items():
            names = said.setdefault(text.replace(spec.name, "the model"), [])
            names += [strategy] if strategy not in names else []
    for text, names in sorted(said.items(), key=lambda item: item[1]):
        yield f"- {', '.join(names)}: {text}"


def page() -> str:
    """The Markdown page."""
    specs = [registry.resolve(info.file, object) for info in registry.specs()]
    missing = {spec.name: refused(spec) for spec in specs}
    known = [info.name for info in autocache.strategies()]
    everywhere = [name for name in known if not any(name in found for found in missing.values())]
    proofs = [spec.proof for spec in specs if spec.proof]
    count = f"{len(specs)} classes, {sum(len(proof.pipelines) for proof in proofs)} loops. "
    apply = f"These strategies apply to every one of them: {', '.join(everywhere)}.\n"
    why = ["## Why a strategy does not apply", "", *reasons(specs, missing)]
    return "\n".join([ABOUT, count + apply, *rows(specs, missing), "", *why, ""])


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
