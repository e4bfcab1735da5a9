"""What JSON lacks is written in words, and the rest as it is."""

from __future__ import annotations

import json
import math
from pathlib import Path

from autocache.jsonable import jsonable


def test_strict_json_can_be_made_of_it():
    """Of distances that are not finite, and of parameters of any kind."""
    given = {"far": math.inf, "lost": [-math.inf, math.nan], 3: ("a", None, True), "p": Path("x")}
    text = json.dumps(jsonable(given), allow_nan=False)
    assert json.loads(text) == {
        "far": "inf",
        "lost": ["-inf", "nan"],
        "3": ["a", None, True],
        "p": "x",
    }
