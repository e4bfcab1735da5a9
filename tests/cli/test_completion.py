"""`autocache completion`: a shell that has sourced it knows commands, options and names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from autocache import strategy
from autocache.cli.main import build_parser, main


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """What bash sources."""
    command = [sys.executable, "-m", "autocache", "completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    file = tmp_path_factory.mktemp("completion") / "autocache.bash"
    file.write_text(done.stdout)
    return file


def _completed(script, *words: str) -> list[str]:
    """What bash offers for the last word."""
    code = f"""
    source {script}
    COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
    COMP_CWORD={len(words) - 1}
    $(complete -p autocache | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    bash = ["bash", "--norc", "-c", code]
    done = subprocess.run(bash, capture_output=True, text=True, check=True)
    return [word.strip() for word in done.stdout.splitlines() if word.strip()]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash completes for bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("autocache", "do"), {"doctor"}),
        (("autocache", "ru"), {"run"}),
        (("autocache", "strategies", "tea"), {"teacache"}),
        (("autocache", "run", "--strategy", "f"), {n for n in strategy.names() if n[0] == "f"}),
        (("autocache", "specs", "show", "FluxT"), {"FluxTransformer2DModel"}),
        (("autocache", "specs", "li"), {"list"}),
        (("autocache", "tune", "--min"), {"--min-psnr"}),
    ],
)
def test_bash_completes(script, words, expected):
    """Commands, options, strategies and specs."""
    assert set(_completed(script, *words)) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash completes for bash")
def test_bash_completes_files(script, tmp_path, monkeypatch):
    """Where a file is wanted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("")
    assert _completed(script, "autocache", "tune", "--prompts", "pro") == ["prompts.txt"]
    (tmp_path / "infer.py").write_text("")
    assert _completed(script, "autocache", "compare", "inf") == ["infer.py"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_every_shell_knows_the_strategies(shell, capsys):
    """And, where the shell is at hand, what is printed is valid to it."""
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for name in strategy.names():
        assert name in text
    if shell != "tcsh" and shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True, env=dict(os.environ))


def test_what_a_shell_is_offered_does_not_bind_the_parser():
    """A strategy may have parameters behind it."""
    given = ["run", "--strategy", "teacache:threshold=1+invariant", "x.py"]
    assert build_parser().parse_args(given).strategy == given[2]
