"""`autocache compare` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autocache import demo
from autocache.cli.main import build_parser, main
from autocache.comparison.figures import Comparison, Row
from autocache.comparison.progress import ComparisonProgress
from autocache.comparison.table import caption, table

QUICK = ("--steps", "3", "--rounds", "1", "--no-fewer-steps", "--device", "cpu")


def test_the_bundled_pipeline_is_compared_where_none_is_named(tmp_path, capsys):
    """A table of the runs, where the files are, and how far it is on standard error."""
    out = tmp_path / "out"
    asked = ("compare", *QUICK, "--prompt", "a", "--strategy", "fora:interval=2", "--out", str(out))
    assert main(asked) == 0
    said = capsys.readouterr()
    assert "fora:" in said.out
    assert "interval=2" in said.out
    assert str(out) in said.out.replace("\n", "")
    assert "compare: fora:interval=2" in said.err
    assert (out / "grid.png").is_file()

    assert main((*asked, "--strategy", "deepcache", "--json")) == 1
    figures = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in figures["rows"]] == ["plain", "fora:interval=2", "deepcache"]
    assert "no UNet levels" in figures["rows"][2]["problem"]

    assert main((*asked, "--seed", "1")) == 2
    assert "seed=0 and not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "model", "arguments", "steps"),
    [
        ((), None, [], None),
        (("--steps", "3"), None, [], 3),
        (("folder", "--steps", "3"), "folder", [], 3),
        (("--steps", "3", "folder"), "folder", [], 3),
        (("--seed", "1", "infer.py", "--steps", "3", "x"), "infer.py", ["--steps", "3", "x"], None),
        (("infer.py",), "infer.py", [], None),
        (("--", "infer.py", "--help"), "infer.py", ["--help"], None),
    ],
)
def test_what_follows_a_script_is_the_scripts(words, model, arguments, steps):
    """As `autocache run` has it; what follows a model is the command's own."""
    options = build_parser().parse_args(["compare", *words])
    assert (options.model, options.arguments, options.steps) == (model, arguments, steps)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("folder", "--stepz", "3"), "did you mean '--steps'?"),
        (("folder", "other"), "unrecognized arguments: other"),
    ],
)
def test_what_follows_a_model_is_checked(words, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(["compare", *words])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--strategy", "teacach"), "'teacache'"),
        (("{here}", "--prompt", "a"), "no model_index.json"),
        (("{model}",), "--prompt TEXT"),
        (("{here}/none.py",), "no such script"),
        (("--steps", "3", "{here}/none.py"), "--steps is for a pipeline"),
        (("--calls", "3"), "--calls is for a script"),
        (("--prompt", "a", "--steps", "2", "--out", "{here}/file/out"), "cannot keep"),
    ],
)
def test_a_wrong_command_is_one_line_and_status_2(arguments, said, tmp_path, capsys):
    """That says what was wrong."""
    (tmp_path / "file").write_text("")
    places = {"here": tmp_path, "model": demo.path()}
    given = [one.format(**places) for one in arguments]
    if "--out" not in given:
        given = ["--out", str(tmp_path / "out"), *given]
    assert main(["compare", *given]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("autocache: error: ")
    assert said in line


def test_an_interruption_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    """And ends as interrupted programs do; where nothing is finished it names no folder."""

    out = str(tmp_path / "out")
    asked = ["compare", *QUICK, "--prompt", "a", "--strategy", "fora", "--out", out]

    def said_when_interrupted_at(run: str) -> str:
        def interrupted(_: ComparisonProgress, doing: str, *rest: object) -> None:
            if doing == run:
                raise KeyboardInterrupt

        monkeypatch.setattr(ComparisonProgress, "__call__", interrupted)
        assert main(asked) == 130
        return capsys.readouterr().err

    assert "nothing was finished yet" in said_when_interrupted_at("plain")
    assert f"what is finished is in {out};" in said_when_interrupted_at("fora")


def test_a_table_fits_eighty_columns_and_keeps_brackets():
    """Long names break between their parameters; brackets are no markup."""
    from rich.console import Console

    name = "attention:kinds=[self,cross],step_interval=2"
    rows = (
        Row("plain", "plain", speedup=1.0, compute=1.0),
        Row(
            *(name, "strategy"),
            **{"speedup": 1.5, "speedup_low": 1.25, "speedup_high": 1.75, "compute": 0.5},
            **{"psnr": 30.0, "psnr_worst": 28.5, "ssim": 0.9, "relative_l1": 0.1},
            **{"bytes_peak": 2**20, "steps_same_cost": 14, "psnr_gain": 3.25},
        ),
        Row("deepcache", "strategy", problem="does not apply: no UNet levels"),
    )
    found = Comparison(rows, 3, 4, 28, "cpu", Path("out"), ("a note",))
    console = Console(width=80)
    with console.capture() as drawn:
        console.print(table(found))
    text = drawn.get()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "[self" in text
    assert "…" not in text
    for figure in ("1.50x", "1.25–1.75", "50.0%", "30.0/28.5", "+3.2 to 14", "1.0"):
        assert figure in text
    said = caption(found)
    assert "deepcache: does not apply: no UNet levels" in said
    assert "note: a note" in said


def test_the_bar_tells_the_time_that_is_left():
    """On a terminal; elsewhere each run is a line with the share that is done."""
    import io

    from rich.console import Console

    terminal = io.StringIO()
    with ComparisonProgress(Console(file=terminal, force_terminal=True, width=100)) as progress:
        progress("plain", 0.0, 4.0)
        progress("fora", 1.0, 4.0)
        progress("fora", 2.0, 4.0)
    assert "50%" in terminal.getvalue()
    assert "left" in terminal.getvalue()
    lines = io.StringIO()
    with ComparisonProgress(Console(file=lines)) as progress:
        progress("fora:kinds=[self]", 1.0, 4.0)
    assert lines.getvalue() == "compare: fora:kinds=[self] (25%)\n"
