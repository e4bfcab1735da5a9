"""What a person reads when a spec file is wrong."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from autocache.errors import SpecError
from autocache.spec.loader import line_of, load
from autocache.spec.registry import directory

GOOD = """\
schema: 1
model: package.module:Toy
stacks:
  - path: blocks
    block: Block
    streams: [hidden_states]
    returns: hidden_states
    attention: {attn: self}
probes:
  embedding: {argument: temb}
guidance: {ToyPipeline: batched}
"""


def _errors(tmp_path: Path, text: str | bytes) -> list[str]:
    file = tmp_path / "Toy.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError) as caught:
        load(file)
    lines = str(caught.value).splitlines()
    assert all(re.match(rf"{re.escape(str(file))}:\d+:\d+: .", line) for line in lines), lines
    return [line.removeprefix(f"{file}:") for line in lines]


def test_a_good_file_loads_and_knows_its_lines(tmp_path: Path) -> None:
    """A loaded spec knows its file and where each part of it stands."""
    file = tmp_path / "Toy.yaml"
    file.write_text(GOOD)
    spec = load(file)
    assert (spec.name, spec.file) == ("Toy", file)
    assert line_of(spec, "stacks", 0, "streams", 0) == f"{file}:6:15"
    assert line_of(file, "stacks", 0, "nothing", "below") == f"{file}:4:5"


@pytest.mark.parametrize(
    ("wrong", "right", "expected"),
    [
        ("    retruns: hidden", "    returns: hidden", "7:5: unknown key 'retruns'; did you mean"),
        ("embeded", "batched", "11:12: 'embeded' is not allowed; did you mean 'embedded'?"),
        ("attn: slef", "attn: self", "8:17: 'slef' is not allowed; did you mean 'self'?"),
        ("schema: 2", "schema: 1", "1:1: 2 is not allowed; expected one of: 1"),
        ("returns: hidden_state", "returns: hidden_states", "did you mean 'hidden_states'?"),
        ("block: 3", "block: Block", "should be a valid string or should be a valid list, not 3"),
        ("path: [a]", "path: blocks", "4:5: 'path' should be a valid string, not a list"),
        ("{argument: temb, output_of: {module: m}}", "{argument: temb}", "needs exactly one of"),
        ("{}", "{argument: temb}", "10:3: a probe needs exactly one of"),
        ("stack: []\nx:", "stacks:", "did you mean 'stacks'?"),
        ("model: Toy", "model: package.module:Toy", "2:1: expected 'package.module:Class'"),
        ("model: package:Other", "model: package.module:Toy", "expected the name Other.yaml"),
        ("streams: [x, x]", "streams: [hidden_states]", "6:5: a stream is listed twice"),
    ],
)
def test_a_problem_has_a_position_and_the_nearest_name(
    tmp_path: Path, wrong: str, right: str, expected: str
) -> None:
    """A wrong key or value is named with its line, its column and what was expected."""
    assert right in GOOD
    errors = _errors(tmp_path, GOOD.replace(right, wrong, 1))
    assert any(expected in line for line in errors), errors


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    """Three mistakes give three lines, in the order of the file."""
    text = GOOD.replace("path: blocks", "pth: blocks").replace("batched", "batchd")
    errors = _errors(tmp_path, text)
    assert [line.split(": ", 1)[1].split(";")[0] for line in errors] == [
        "missing key 'path'",
        "unknown key 'pth'",
        "'batchd' is not allowed",
    ]


def test_a_table_must_name_a_probe(tmp_path: Path) -> None:
    """A TeaCache table without a measured tensor says so where it names the probe."""
    table = (
        "teacache: [{id: a, probe: embeding, coefficients: [1.0], provenance: bundled, source: b}]"
    )
    (error,) = _errors(tmp_path, GOOD + table)
    assert error == "12:20: no probe is called 'embeding'; did you mean 'embedding'?"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "- a",
        "a: [",
        "a: 'b",
        "a: &x [*x]",
        "a: &x {b: *x}",
        "a: *nowhere",
        "? [a]\n: b",
        "1: b",
        "schema: 2020-99-99",
        "schema: !!python/object:os.system x",
        "schema: !!int x",
        "<<: {a: b}",
        "a: 1\n---\nb: 2",
        "\t: {",
        "a: " + "[" * 3000,
        "a: " + "[" * 300 + "]" * 300,
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 9)),
        "\x00",
        b"\xff\xfe\x00\x01",
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        GOOD + "schema: 1\n",
        GOOD.replace("stacks:", "stacks: 1\nother:"),
        GOOD.replace("schema: 1", "schema: '1'"),
        GOOD.replace("{argument: temb}", "7"),
        GOOD.replace("[hidden_states]", "{hidden_states: 1}"),
        GOOD.replace("guidance: {ToyPipeline: batched}", "presets: {'': []}"),
        GOOD.replace("guidance: {ToyPipeline: batched}", "teacache: .nan"),
    ],
)
def test_rubbish_is_a_spec_error(tmp_path: Path, text: str | bytes) -> None:
    """Nothing in a file gets past the loader as any other exception."""
    assert _errors(tmp_path, text)


@pytest.mark.parametrize("size", range(0, len(GOOD) - 40, 13))
def test_a_truncated_file_never_crashes(tmp_path: Path, size: int) -> None:
    """A file cut anywhere either still is a spec or gives a spec error."""
    file = tmp_path / "Toy.yaml"
    file.write_text(GOOD[:size])
    with contextlib.suppress(SpecError):
        assert load(file).name == "Toy"


def test_a_duplicate_key_names_its_first_line(tmp_path: Path) -> None:
    """The second of two equal keys is refused, and the first one is pointed at."""
    (error,) = _errors(tmp_path, GOOD + "model: package.module:Toy\n")
    assert error == "12:1: key 'model' is given twice, first on line 2"


def test_a_missing_file_or_a_folder_is_a_spec_error(tmp_path: Path) -> None:
    """What cannot be read is reported as such, with its path."""
    for path in (tmp_path / "None.yaml", tmp_path):
        with pytest.raises(SpecError, match="cannot read the file"):
            load(path)


@pytest.mark.parametrize("file", sorted(directory().glob("*.yaml")), ids=lambda file: file.stem)
def test_bundled_files_are_clean(file: Path) -> None:
    """Every bundled file loads, and is named after its class."""
    assert load(file).name == file.stem
