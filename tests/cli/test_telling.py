"""How far a command is, on a terminal and in a log."""

from __future__ import annotations

import io

from rich.console import Console

from autocache.cli.main import main
from autocache.cli.telling import telling


def _said(*, terminal: bool) -> str:
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=terminal, width=80)
    with telling("demo", "starting", console, part=lambda doing: doing.split(": ")[0]) as tell:
        for step in range(3):
            tell(f"attention:kinds=[self]: step {step} of 3")
    return drawn.getvalue()


def test_a_log_has_a_line_for_each_part():
    """Once each, brackets and all, and no control characters."""
    assert _said(terminal=False) == "demo: starting\ndemo: attention:kinds=[self]\n"


def test_a_terminal_has_a_line_that_changes():
    """Drawn over at the end."""
    assert "attention:kinds=[self]: step 2 of 3" in _said(terminal=True)
    assert "demo: " not in _said(terminal=True)


def test_a_wrong_strategy_is_said_before_the_demonstration_draws(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["demo", "--strategy", "teacach", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said == "autocache: error: no strategy is named 'teacach'; did you mean 'teacache'?\n"
    assert not out.exists()
