"""The modules of `benchmarks/`, which are no package, can be imported by their names."""

from __future__ import annotations

import sys

from scripts import ROOT

FOLDER = str(ROOT / "benchmarks")
if FOLDER not in sys.path:
    sys.path.append(FOLDER)
