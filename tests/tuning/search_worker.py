"""One worker of a search in a process of its own: `search_worker.py STORAGE TRIALS STOP_AT`.

It says which trials it runs, and in the one that its own count makes STOP_AT it waits for a line
on standard input.
"""

from __future__ import annotations

import sys

import optuna

from autocache.tuning.study import search

STARTS = ({"x": 0.25}, {"x": 0.5}, {"x": 0.75})


def main(storage: str, trials: str, stop_at: str) -> None:
    ran = 0

    def objective(trial: optuna.Trial) -> float:
        nonlocal ran
        ran += 1
        x = trial.suggest_float("x", 0, 1)
        print(f"running {trial.number}", flush=True)
        if ran == int(stop_at):
            print("waiting", flush=True)
            sys.stdin.readline()
        return (x - 0.3) ** 2

    search(objective, name="parabola", trials=int(trials), storage=storage, starts=STARTS)


if __name__ == "__main__":
    main(*sys.argv[1:])
