"""Every bundled spec is proven on a tiny instance of the real model."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocache.authoring.verify import verify, verify_pipeline
from autocache.errors import SpecError
from autocache.spec import registry
from autocache.spec.loader import load

FILES = sorted(registry.directory().glob("*.yaml"))


def _loops() -> list[tuple[Path, str]]:
    found = []
    for file in FILES:
        try:
            proof = load(file).proof
        except SpecError:
            continue  # The test of the model says so.
        found += [(file, label) for label in (proof.pipelines if proof else ())]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_spec_holds_for_its_model(file: Path) -> None:
    """What it says of blocks, streams, sub-modules, probes and levels is so."""
    (report,) = verify(file, pipelines=False)
    assert not report.failed, str(report)


@pytest.mark.parametrize(("file", "label"), _loops(), ids=lambda part: getattr(part, "stem", part))
def test_a_spec_holds_in_a_pipeline(file: Path, label: str) -> None:
    """What it says of guidance, and steps, branches and generations, in the pipeline's own loop."""
    report = verify_pipeline(file, label)
    assert not report.failed, str(report)
