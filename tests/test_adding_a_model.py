"""docs/adding_a_model.md tells of commands, keys and files that exist, and its spec is proven."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

import autocache
from autocache.authoring.json_schema import schema
from autocache.authoring.validate import check
from autocache.authoring.verify import verify
from autocache.cli.main import build_parser
from autocache.spec.schema import Style
from scripts import ROOT

PAGE = ROOT / "docs" / "adding_a_model.md"
TEXT = PAGE.read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every `autocache ...` line in a code block, and every such command within a line."""
    blocks = "".join(body for _, body in FENCED).replace("\\\n", " ")
    lines = [line.removeprefix("$ ") for line in blocks.splitlines()]
    inline = re.findall(r"`(autocache specs [^`]+)`", TEXT)
    return [line for line in lines if re.match(r"autocache \w+ ", line)] + inline


def table(heading: str) -> set[str]:
    """The names in the first column of the table under a heading."""
    section = re.split(rf"^### {heading}$", TEXT, flags=re.MULTILINE)[1]
    section = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def keys(part: str) -> set[str]:
    """The keys that the schema allows in a part of a spec."""
    found = schema()
    return set((found if part == "Spec" else found["$defs"][part])["properties"])


def test_the_page_shows_every_action() -> None:
    """A page without commands would pass the other tests."""
    shown = {command.split()[2] for command in commands()}
    assert shown == {"draft", "list", "schema", "show", "validate", "verify"}


@pytest.mark.parametrize("command", commands())
def test_a_command_is_one_that_the_command_line_takes(command: str) -> None:
    """Action, options and number of arguments; the named specs are those of the example."""
    words = shlex.split(command.partition(" > ")[0])[1:]
    options = build_parser().parse_args(words)
    assert callable(options.run)
    for word in words[2:]:
        if word.endswith("Model"):
            assert word in {info.name for info in autocache.specs()}


@pytest.mark.parametrize("part", ["Spec", "Stack", "Proof", "Loop"])
def test_every_key_is_explained(part: str) -> None:
    """And none that does not exist."""
    assert table(part) == keys(part)


def test_every_style_of_guidance_is_explained() -> None:
    """And none that does not exist."""
    assert table("Guidance") == set(get_args(Style))


def test_the_examples_of_odd_cases_exist() -> None:
    """Each bundled spec that the page tells the reader to copy from has the case."""
    specs = {info.name: info.file.read_text() for info in autocache.specs()}
    for case, example in {
        "streams: [x]": "ErnieImageTransformer2DModel",
        "returns: [encoder_hidden_states, hidden_states]": "QwenImageTransformer2DModel",
        "each: true": "LatteTransformer3DModel",
        "returns: [null, control_hidden_states]": "WanVACETransformer3DModel",
        "compute_when: {kv_cache_mode: [extract]}": "Flux2Transformer2DModel",
        "frames: num_frames": "LTXVideoTransformer3DModel",
        "unet:": "UNet2DConditionModel",
        '"cross_attention?": cross': "BriaFibo2Transformer2DModel",
    }.items():
        (row,) = (line for line in TEXT.splitlines() if line.endswith(f" | `{example}` |"))
        assert case in row
        assert case in specs[example]


def test_the_files_and_links_exist() -> None:
    """Paths of this repository in links, and the scripts that are run."""
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    run = re.findall(r"\b(?:tools|tests|examples)/[\w./]+\w", TEXT)
    assert links
    assert run
    for path in [*((PAGE.parent / link) for link in links), *(ROOT / path for path in run)]:
        assert path.exists(), path


def test_the_spec_on_the_page_is_proven(tmp_path: Path) -> None:
    """What the reader arrives at is valid, and holds for the tiny model."""
    (text,) = (body for language, body in FENCED if language == "yaml" and "stacks:" in body)
    file = tmp_path / "Lumina2Transformer2DModel.yaml"
    file.write_text(text)
    (checked,) = check([file])
    assert not checked.problems
    (report,) = verify(file, pipelines=False)
    assert not report.failed, str(report)
