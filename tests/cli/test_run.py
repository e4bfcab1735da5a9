"""`autocache run`: scripts that know nothing of it, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

from autocache.activation_grammar import parse, with_parameters
from autocache.cli.main import build_parser
from autocache.cli.run import variables
from autocache.errors import ParameterError

ROOT = Path(__file__).resolve().parents[2]
MODEL = """
import sys
def build():
    from diffusers import DiTTransformer2DModel
    model = DiTTransformer2DModel(in_channels=4, out_channels=8, num_attention_heads=2,
                                  attention_head_dim=4, num_layers=3, num_embeds_ada_norm=8,
                                  patch_size=2, sample_size=8)
    from autocache import api
    return api.is_patched(model)
if __name__ == "__main__":
    print("patched", build(), sys.argv[1:])
"""
CHILD = (
    MODEL
    + """
    import subprocess
    if sys.argv[1:] != ["child"]:
        subprocess.run([sys.executable, __file__, "child"], check=True)
"""
)


def run(
    *arguments: str | Path,
    cwd: Path,
    path: str = "",
    python: str | Path = sys.executable,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """`autocache run`, with nothing set but what is given."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOCACHE", "PYTHON"))}
    paths = {"PYTHONPATH": path} if path else {}
    command = [str(python), "-m", "autocache", "run", *map(str, arguments)]
    return subprocess.run(
        command,
        env=kept | {"HF_HUB_OFFLINE": "1"} | paths | env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "script.py"
    file.write_text(MODEL)
    return file


def test_a_script_is_patched_and_gets_its_arguments(script, tmp_path):
    """Options of the script are its own, even those that autocache has too; statistics go where
    they were to go though the script is in another folder then."""
    options = ("--strategy", "dit_block", "--param", "step_interval=2", "--stats", "s.json")
    done = run(*options, script.name, "--strategy", "mine", "--debug", "-m", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "patched True ['--strategy', 'mine', '--debug', '-m']\n"
    assert "dit_block" in done.stderr
    (stats,) = json.loads((tmp_path / "s.json").read_text())
    assert "step_interval" in json.dumps(stats)


def test_a_module_is_run(script, tmp_path):
    """With `-m`, from the present folder as Python does."""
    done = run("--strategy", "fora", "-m", "script", "-m", "1", cwd=tmp_path)
    assert done.stdout == "patched True ['-m', '1']\n"


def test_where_the_hook_is_off_it_acts_all_the_same(tmp_path):
    """An interpreter without the .pth file, for the script and for a process that it starts; a
    `sitecustomize` of the user's own still runs."""
    script = tmp_path / "script.py"
    script.write_text(CHILD)
    (tmp_path / "sitecustomize.py").write_text("print('mine')\n")
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    site = tmp_path / "site"
    site.mkdir()
    for package in Path(torch.__file__).parents[1].iterdir():
        if not package.name.endswith((".pth", ".start")) and "autocache" not in package.name:
            (site / package.name).symlink_to(package)
    (site / "autocache").symlink_to(ROOT / "autocache")
    path = os.pathsep.join([str(tmp_path), str(site)])
    options = ("--strategy", "fora", "script.py")
    done = run(*options, cwd=tmp_path, path=path, python=python)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert sorted(line for line in said if line != "mine") == [
        "patched True ['child']",
        "patched True []",
    ]
    # autocache itself, the interpreter it asks, the script and its child.
    assert said.count("mine") == 3
    bare = run(*options, cwd=tmp_path, path=path, python=python, AUTOCACHE_DISABLE="1")
    assert "patched False []" in bare.stdout


@pytest.mark.parametrize(
    ("body", "status"), [("raise SystemExit(7)", 7), ("1 / 0", 1), ("pass", 0)]
)
def test_the_exit_status_is_the_scripts(tmp_path, body, status):
    """And a traceback is the script's own, with nothing of autocache in it; else the last line
    says that the script made no model."""
    (tmp_path / "s.py").write_text(body)
    done = run("s.py", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == status
    unmet = "autocache: nothing was patched: the program never imported torch\n"
    if status == 1:
        assert "ZeroDivisionError" in done.stderr
        assert "autocache" not in done.stderr
    else:
        assert done.stderr == unmet
    assert [file.name for file in tmp_path.iterdir()] == ["s.py"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import torch", ["autocache specs draft", "autocache doctor"]),
        (CHILD.replace("build(), sys.argv[1:])", '"child" in sys.argv and build())'), []),
    ],
)
def test_the_closing_line_is_of_the_script_and_all_that_it_starts(tmp_path, body, said):
    """It says what helps a model of one's own; a model that a child makes has been met."""
    (tmp_path / "s.py").write_text(body)
    done = run("--strategy", "fora", "s.py", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert ("nothing was patched" in done.stderr) == bool(said)
    assert all(words in done.stderr for words in said)
    assert [file.name for file in tmp_path.iterdir()] == ["s.py"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_ends_the_script_itself(tmp_path):
    """There is no process in between that would live on."""
    (tmp_path / "s.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert run("s.py", cwd=tmp_path).returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to run"),
        (("nothing.py",), "there is no script nothing.py"),
        (("-m", "no_such_module"), "there is no module no_such_module"),
        (("-m",), "the name of a module"),
        (("--strategy", "fast.yaml", "x.py"), "fast.yaml"),
        (("--specs", "nowhere", "x.py"), "--specs nowhere: not a directory"),
    ],
)
def test_what_cannot_be_run_is_a_line(tmp_path, arguments, said):
    """Status 2, and nothing has run."""
    (tmp_path / "x.py").write_text("print('ran')")
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def told(monkeypatch, tmp_path):
    """The variables that a command line stands for."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("AUTOCACHE"):
            monkeypatch.delenv(name)

    def told(*arguments: str) -> dict[str, str]:
        return variables(build_parser().parse_args(["run", *arguments, "x.py"]))

    return told


def test_options_become_variables(told, monkeypatch, tmp_path):
    """Paths are absolute, own specs go first, and an inherited request stays."""
    monkeypatch.setenv("AUTOCACHE_SPECS", "/other")
    given = ("--report", "r.html", "--log", "DEBUG", "--specs", ".", "--stats", "s.json")
    assert told(*given) == {
        "AUTOCACHE": "auto",
        "AUTOCACHE_LOG": "debug",
        "AUTOCACHE_REPORT": str(tmp_path / "r.html"),
        "AUTOCACHE_SPECS": os.pathsep.join([str(tmp_path), "/other"]),
        "AUTOCACHE_STATS": str(tmp_path / "s.json"),
    }
    monkeypatch.setenv("AUTOCACHE", "fora")
    assert told()["AUTOCACHE"] == "fora"
    assert told("--strategy", "teacache")["AUTOCACHE"] == "teacache"


def test_a_profile_is_found_from_any_folder(told, tmp_path):
    """Its parameters are those of its file."""
    (tmp_path / "p.yaml").write_text("schema_version: 1\nstrategy: fora\n")
    assert told("--strategy", "p.yaml")["AUTOCACHE"] == str(tmp_path / "p.yaml")
    with pytest.raises(ParameterError, match="a profile has its parameters in its file"):
        told("--strategy", "p.yaml", "--param", "interval=2")


@pytest.mark.parametrize(
    ("text", "items", "expected"),
    [
        ("teacache", ["threshold=0.1"], {"threshold": 0.1}),
        ("teacache:warmup_steps=2", ["threshold=0.1", "a=x"], {"warmup_steps": 2}),
        ("a", ["k=[self, cross]", "l=x,y", "m=1e+3", "n=x+y"], {"l": "x,y", "n": "x+y"}),
        ("a", ["k={a: 1, b: 2}"], {"k": {"a": 1, "b": 2}}),
    ],
)
def test_parameters_join_the_strategy(text, items, expected):
    """What is put together is read back as it was given, commas and plus signs in values too."""
    read = parse(with_parameters(text, items))
    assert isinstance(read.strategy, str)
    assert expected.items() <= read.parameters.items()
    assert {item.partition("=")[0] for item in items} <= set(read.parameters)


def test_of_several_strategies_the_parameter_has_to_say_which():
    """But for those of `autocache.patch`, which are for all."""
    joined = with_parameters("teacache+invariant", ["dry_run=true"])
    assert parse(joined).parameters == {"dry_run": True}
    with pytest.raises(ParameterError, match=r"teacache:threshold=0\.1"):
        with_parameters("teacache+invariant", ["threshold=0.1"])
    with pytest.raises(ParameterError, match="expected KEY=VALUE"):
        with_parameters("teacache", ["threshold"])
