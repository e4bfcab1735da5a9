"""What a search shows of itself."""

from __future__ import annotations

import io

import optuna
from rich.console import Console

from autocache.tuning.progress import SearchProgress
from autocache.tuning.study import search


def drawn(terminal: bool, trials: int = 4, **options) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)

    def objective(trial: optuna.Trial):
        x = trial.suggest_float("x", 0, 1)
        return x if len(options.get("directions", "1")) == 1 else (x, x)

    with SearchProgress("placement", trials, console=console) as progress:
        search(objective, name="s", trials=trials, starts=[{"x": 0.0}], tell=progress, **options)
    return text.getvalue()


def test_a_terminal_gets_a_bar():
    """With the number of trials and the best so far."""
    assert all(part in drawn(True) for part in ("placement", "4/4", "0:00:00 left", "best 0"))


def test_a_file_gets_one_line():
    """What is no terminal has nothing drawn over and over."""
    line = drawn(False)
    assert line.count("\n") == 1
    assert line.startswith("placement: 4 of 4 trials in 0:00:0")
    assert line.endswith(", best 0\n")


def test_trials_of_earlier_runs_count(tmp_path):
    """A search that goes on shows how far it is in all."""
    drawn(False, trials=3, storage=tmp_path / "s.log")
    assert drawn(False, trials=5, storage=tmp_path / "s.log").startswith("placement: 5 of 5")


def test_a_search_that_was_done_already_says_so(tmp_path):
    """Nothing to run is not told as nothing done."""
    drawn(False, trials=3, storage=tmp_path / "s.log")
    for terminal in (False, True):
        text = drawn(terminal, trials=3, storage=tmp_path / "s.log")
        assert "placement: no trial was run; 3 were asked for in all" in text


def test_several_directions_show_the_size_of_the_front():
    """There is no single best then."""
    assert "1 not beaten" in drawn(False, directions=("minimize", "minimize"))


def test_own_words_for_the_best():
    """Who searches says what is best, and brackets in it are no markup."""
    text = io.StringIO()
    console = Console(file=text, width=120)
    with SearchProgress("s", 2, lambda study: "[2.0x] 50 dB", console) as progress:
        search(lambda trial: trial.suggest_float("x", 0, 1), name="s", trials=2, tell=progress)
    assert text.getvalue().endswith(", [2.0x] 50 dB\n")
