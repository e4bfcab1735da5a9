"""Whatever is in a spec file, reading it gives a spec or a SpecError: fast, and running nothing."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autocache.errors import SpecError
from autocache.spec import document, layers
from autocache.spec.loader import load
from tests.specs.spoiled import GOOD, PATHS, WRONG, replaced

SECONDS = 2
FUZZ = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def _read(folder: Path, content: str | bytes) -> list[str]:
    """The problems found in a file, none when it is a spec; and it took no time to find them."""
    file = folder / "Toy.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    started = time.process_time()
    problems: list[str] = []
    try:
        spec = load(file)
    except SpecError as error:
        problems = str(error).splitlines()
        assert all(re.match(rf"{re.escape(str(file))}:\d+:\d+: .", p) for p in problems), problems
    else:
        assert spec.name == "Toy"
        assert layers.model_of(file) == spec.model
    try:
        layers.model_of(file)
    except SpecError as error:
        problems = problems or [str(error)]
    assert time.process_time() - started < SECONDS
    return problems


def _dumped(value: Any) -> str:
    return yaml.dump(value, Dumper=yaml.CSafeDumper, allow_unicode=True)


def test_the_file_that_is_spoiled_below_is_a_good_one(tmp_path: Path) -> None:
    """What follows starts from a spec with nearly every key in it."""
    assert _read(tmp_path, GOOD) == []


def test_cut_anywhere(tmp_path: Path) -> None:
    """A download that broke off at any byte."""
    for size in range(len(GOOD)):
        _read(tmp_path, GOOD[:size])


def test_a_part_missing_anywhere(tmp_path: Path) -> None:
    """Pieces of several lengths gone, from every place."""
    for length in (1, 7, 40):
        for start in range(0, len(GOOD), 3):
            _read(tmp_path, GOOD[:start] + GOOD[start + length :])


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: repr(value)[:20])
def test_a_wrong_value_anywhere(tmp_path: Path, wrong: Any) -> None:
    """Every value of the file replaced by one of another type, one at a time."""
    value = yaml.safe_load(GOOD)
    for path in PATHS:
        dumped = yaml.dump(
            replaced(value, path, wrong), Dumper=yaml.CSafeDumper, allow_unicode=True
        )
        _read(tmp_path, dumped)


def test_an_alias_to_the_whole_anywhere(tmp_path: Path) -> None:
    """A part that contains itself, in the place of every value."""
    value = yaml.safe_load(GOOD)
    for path in PATHS:
        spoiled = replaced(value, path, {"self": None})
        inner = spoiled
        for key in path:
            inner = inner[key]
        inner["self"] = inner
        problems = _read(tmp_path, _dumped(spoiled))
        assert any("an alias refers to the part it stands in" in line for line in problems), path


TAGGED = [
    "!!python/object/apply:os.system ['touch {file}']",
    "!!python/object/apply:subprocess.check_output [[touch, '{file}']]",
    "!!python/object/new:pathlib.Path ['{file}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1, 2]",
    "!!set {{a, b}}",
    "!!omap [a: 1]",
    "!!binary aGVsbG8=",
    "!own {{a: 1}}",
    "!!float x",
    "!!timestamp x",
    "!!bool x",
    "!!map x",
    "!!seq x",
    "!!str [x]",
    "!!str {{x: x}}",
]


@pytest.mark.parametrize("tagged", TAGGED)
def test_a_tag_is_refused_and_runs_nothing(tmp_path: Path, tagged: str) -> None:
    """YAML can name objects to build; a spec never builds one, wherever it says so."""
    made = tmp_path / "made"
    text = tagged.format(file=made)
    for spoiled in (
        GOOD.replace("timestep: t", f"timestep: {text}"),
        GOOD.replace("package: diffusers 0.42.1", f"package: {text}"),
        f"{GOOD}? {text}\n: a\n",
    ):
        assert spoiled != GOOD
        assert _read(tmp_path, spoiled)
        _read(tmp_path, GOOD.replace("{layers: [2, 3]}", f"{{layers: {text}}}"))
    assert not made.exists()


HOSTILE = {
    "brackets": "a: " + "[" * 400_000,
    "braces": "{a: " * 200_000,
    "dashes": "- " * 400_000,
    "question marks": "? " * 400_000,
    "indentation": "".join(" " * i + "a:\n" for i in range(1300)),
    "closed brackets": "a: " + "[" * 5_000 + "]" * 5_000,
    "many items": GOOD + "more: [" + "a," * 400_000 + "]",
    "many keys": GOOD + "".join(f"key{i}: 1\n" for i in range(50_000)),
    "many wrong keys": "".join(f"- {{stack{i}: 1}}\n" for i in range(30_000)),
    "many wrong stacks": GOOD.split("stacks:")[0] + "stacks:\n" + "- {pth: a}\n" * 60_000,
    "many duplicate keys": "stacks: 1\n" * 80_000,
    "many number keys": "".join(f"{i}: 1\n" for i in range(80_000)),
    "a long key": GOOD + "k" * 400_000 + ": 1",
    "a long string": GOOD.replace("package.module", "a" * 400_000),
    "a long tag": "schema: !" + "a" * 400_000 + " 1",
    "a long comment": "#" * 400_000 + "\n" + GOOD,
    "long blank": " " * 400_000 + GOOD,
    "many blank lines": "\n" * 150_000 + GOOD,
    "many comments": "#\n" * 400_000 + GOOD,
    "many schema lines": "schema: 1\n" * 90_000 + GOOD,
    "a long integer": GOOD.replace("1000", "9" * 400_000),
    "a long hexadecimal": GOOD.replace("1000", "0x" + "f" * 400_000),
    "a hexadecimal too long to print": GOOD.replace("schema: 1", "schema: 0x" + "f" * 6_000),
    "a long base 60 number": GOOD.replace("1000", "1" + ":1" * 400_000),
    "a long fraction": GOOD.replace("1000", "1." + "1" * 400_000),
    "a huge exponent": GOOD.replace("1000", "1e999999999"),
    "many anchors": "".join(f"a{i}: &a{i} 1\n" for i in range(40_000)),
    "aliases of aliases": "a0: &a0 [x]\n"
    + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 12)),
    "aliases in keys": "a: &a {b: c}\n? *a\n: 1",
    "merged aliases": "a: &a {b: c}\n" + "<<: *a\n",
    "too many bytes": "#" * 3_000_000 + "\n" + GOOD,
    "dates": GOOD.replace("1000", "2020-01-01").replace("{layers: 2}", "{layers: 2020-02-30}"),
    "not a number": GOOD.replace("1000", ".nan").replace("[1.0, -2]", "[.inf, -.INF]"),
    "nul": GOOD.replace("blocks", "blo\x00cks"),
    "escaped nul": GOOD.replace("path: blocks", r'path: "blo\0cks"'),
    "a lone surrogate": GOOD.replace("path: blocks", r'path: "\ud800"'),
    "utf-16": GOOD.encode("utf-16"),
    "utf-32": GOOD.encode("utf-32"),
    "latin-1": GOOD.replace("blocks", "blöcke").encode("latin-1"),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 1000,
    "two documents": GOOD + "---\n" + GOOD,
    "a directive": "%YAML 9.9\n---\n" + GOOD,
    "an unknown directive": "%FOO bar\n---\n" + GOOD,
}


HARMLESS = {
    "a long string",
    "a long comment",
    "many blank lines",
    "escaped nul",
    "an unknown directive",
}


@pytest.mark.parametrize("loader", [document._Loader, yaml.SafeLoader], ids=["c", "python"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, loader: type) -> None:
    """Files made to be slow, to overflow something, or to be mistaken for something else, read
    with and without libyaml."""
    monkeypatch.setattr(document, "_Loader", loader)
    problems = _read(tmp_path, HOSTILE[name])
    assert problems or name in HARMLESS
    assert len(problems) < 200
    assert max(map(len, problems), default=0) < 2_000


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        "---\n" + GOOD + "...\n",
        GOOD.replace("timestep: t", "timestep: &t t\n").replace("[x, temb]", "[x, *t]"),
        "%YAML 1.1\n---\n" + GOOD,
    ],
    ids=["bom", "crlf", "document markers", "an alias", "a directive"],
)
def test_unusual_but_harmless(tmp_path: Path, content: str) -> None:
    """What editors of other systems write is read as it is meant."""
    assert _read(tmp_path, content) == []


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=9,
)


@FUZZ
@given(path=st.sampled_from(PATHS), value=VALUES)
def test_any_value_anywhere(tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    """Arbitrary values in the place of a good one."""
    spoiled = replaced(yaml.safe_load(GOOD), path, value)
    _read(tmp_path, _dumped(spoiled))


@FUZZ
@given(
    at=st.integers(0, len(GOOD)),
    gone=st.integers(0, 30),
    put=st.text(st.sampled_from("ab:-[]{}!&*<>|?#'\"\\\n\t %@`,.0123456789~é"), max_size=12),
)
def test_any_text_anywhere(tmp_path: Path, at: int, gone: int, put: str) -> None:
    """A piece replaced by characters that mean something in YAML."""
    _read(tmp_path, GOOD[:at] + put + GOOD[at + gone :])


@FUZZ
@given(content=st.binary(max_size=200), at=st.integers(0, len(GOOD)))
def test_any_bytes(tmp_path: Path, content: bytes, at: int) -> None:
    """Arbitrary bytes, alone and within a good file."""
    _read(tmp_path, content)
    _read(tmp_path, GOOD[:at].encode() + content + GOOD[at:].encode())
