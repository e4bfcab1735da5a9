"""`autocache tune`: from a line in a shell to a profile, and what it says on the way."""

from __future__ import annotations

import pytest

import autocache
from autocache import demo
from autocache.cli import tune as command
from autocache.cli.main import main
from autocache.tuning import tuner

SMALL = (
    *("--call", "height=32", "--call", "width=32", "--call", "max_sequence_length=24"),
    *("--steps", "6", "--device", "cpu"),
)


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\n")
    return file


@pytest.fixture
def asked(prompts, tmp_path):
    """The whole command, but for the goal."""
    return ["tune", demo.path(), "--prompts", str(prompts), *SMALL, "-o", str(tmp_path / "p.yaml")]


def test_a_profile_is_found_and_drawn(asked, tmp_path, capsys):
    """The cost first, then how far it is, what was found and how to use it; of the search nothing
    is left."""
    picture = tmp_path / "frontier.svg"
    options = ("--speedup", "2", "--budget", "17", "--strategies", "schedule,fora")
    assert main([*asked, *options, "--plot", str(picture)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if "Loading" not in line]
    expected = [
        "tune: 2 times less compute; about 1",
        "3 of 6 steps: ",
        "fora: ",
        "frontier: about ",
        "found: ",
        "on 1 held-out inputs: ",
        f"drawn in {picture}",
        f"written to {tmp_path / 'p.yaml'}; use it with",
        f'  autocache.patch(pipe, "{tmp_path / "p.yaml"}")',
        f"  AUTOCACHE={tmp_path / 'p.yaml'} python your_script.py",
    ]
    found = [next(i for i, one in enumerate(lines) if one.startswith(start)) for start in expected]
    assert found == sorted(found)
    assert " dB" in lines[found[1]]
    profile = autocache.Profile.read(tmp_path / "p.yaml")
    assert profile.measured.compute <= 0.5
    assert f"{profile.measured.psnr.mean:.1f} dB" in lines[found[5]]
    for name in ("fewer steps", "auto", "schedule, fitted", "fora", "chosen"):
        assert name in picture.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "frontier.svg",
        "p.yaml",
        "prompts.txt",
    ]


def test_interrupted_it_says_how_to_go_on(asked, tmp_path, capsys, monkeypatch):
    """What is finished is kept beside the profile, and the same command takes it up."""
    options = ("--speedup", "2", "--budget", "13")
    ran, whole = [], tuner.best_score

    def interrupt(study):
        ran.append(len(study.trials))
        if len(ran) == 3:
            raise KeyboardInterrupt
        return whole(study)

    monkeypatch.setattr(tuner, "best_score", interrupt)
    assert main([*asked, *options]) == 130
    storage = tmp_path / "p.tuning.db"
    said = capsys.readouterr().err
    assert f"what is finished is in {storage}; the same command" in said
    assert "interrupted" in said
    assert storage.exists()
    assert main([*asked, *options]) == 0
    assert ran == [1, 2, 3, *range(4, len(ran) + 1)]
    assert not storage.exists()
    assert (tmp_path / "p.yaml").exists()


def test_a_storage_of_ones_own_is_kept(asked, tmp_path):
    """To go on with a greater budget, or on other machines; held-out inputs come from a file."""
    storage, held_out = tmp_path / "s.log", tmp_path / "held_out.yaml"
    held_out.write_text("- a yellow triangle\n")
    options = ("--storage", str(storage), "--held-out", str(held_out), "--budget", "13")
    assert main([*asked, "--speedup", "2", *options]) == 0
    assert storage.exists()
    assert autocache.Profile.read(tmp_path / "p.yaml").measured.inputs == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--speedup", "1"), "speedup=1.0: expected a number above 1"),
        (("--speedup", "2", "--strategies", "shedule"), "schedule"),
        (("--speedup", "2", "--plot", "f.pdf"), ".svg or .png"),
        (("--speedup", "2", "--plot", "no/such/f.svg"), "there is no directory no/such"),
        (("--speedup", "2", "--held-out", "nothing.txt"), "nothing.txt: cannot read"),
        (("--speedup", "2", "--storage", "x.txt"), "expected a file that ends in"),
        (("--speedup", "2", "--budget", "3"), "budget=3: a search takes about"),
    ],
)
def test_errors_are_said_in_a_line(asked, tmp_path, capsys, options, message):
    """Exit status 2, and nothing is written."""
    assert main([*asked, *options]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "p.yaml").exists()


def test_an_existing_profile_is_not_overwritten(asked, tmp_path, capsys):
    """Said before anything is loaded."""
    (tmp_path / "p.yaml").write_text("mine")
    assert main([*asked, "--speedup", "2"]) == 2
    assert "p.yaml exists" in capsys.readouterr().err
    assert (tmp_path / "p.yaml").read_text() == "mine"


@pytest.mark.parametrize("goal", [(), ("--speedup", "2", "--min-psnr", "40")])
def test_one_goal_is_wanted(asked, capsys, goal):
    """None and two are refused by the parser."""
    with pytest.raises(SystemExit) as ended:
        main([*asked, *goal])
    assert ended.value.code == 2
    assert "--min-psnr" in capsys.readouterr().err


def test_a_profile_in_words():
    """Its steps, and every strategy with what it was given."""
    schedule = {"steps": [0, 1, 4], "total": 8, "weights": {"0": [[[1.0]], [[1.0]], [[1.0]]]}}
    profile = autocache.Profile(
        strategy=["invariant", {"strategy": "schedule", "parameters": schedule}]
    )
    said = "invariant and schedule, 3 of 8 steps computed with fitted weights"
    assert command._in_words(profile) == said
    profile = autocache.Profile(strategy="fora", parameters={"interval": 3})
    assert command._in_words(profile) == "fora (interval=3)"
