"""A profile as text that a person can read and change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import yaml
from yaml import representer

if TYPE_CHECKING:
    from autocache.tuning.profile import Measured, Profile

WIDTH = 100
DIGITS = 6
"""Significant digits of a number, more than any measurement or fit here has."""

TITLE = """\
A profile of autocache: a strategy, what it was made for, what was measured of it. To use it:
  autocache.patch(pipe, "this_file.yaml")     or     AUTOCACHE=this_file.yaml python script.py"""


def text(profile: Profile) -> str:
    """The content of its file."""
    content = profile.model_dump(by_alias=True, exclude_unset=True, exclude_none=True)
    content = {"schema_version": profile.schema_version, **content}
    root = representer.SafeRepresenter(sort_keys=False).represent_data(_plain(content))
    for _, value in root.value:
        _lay_out(value, WIDTH - 20)
    body = yaml.serialize(root, Dumper=yaml.SafeDumper, width=WIDTH - 5, allow_unicode=True)
    head = [*TITLE.splitlines(), *_figures(profile.measured)]
    return "".join(f"# {line}\n" for line in head) + "\n" + body


def _figures(measured: Measured | None) -> Iterator[str]:
    if measured is None:
        return
    parts = []
    if measured.compute is not None:
        parts.append(f"{measured.compute:.0%} of the compute")
    if measured.psnr is not None:
        quality = measured.psnr
        parts.append(f"PSNR {quality.mean:.1f} dB (10th percentile {quality.p10:.1f})")
    if measured.inputs is not None:
        parts.append(f"on {measured.inputs} held-out inputs")
    if parts:
        yield "Measured: " + ", ".join(parts) + "."


def _plain(value: Any) -> Any:
    """The value in types that YAML has, its numbers as long as they mean something."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return value


def _lay_out(node: Any, room: int) -> int:
    """Put on one line what fits there, and rows of numbers in any case; its length so."""
    if isinstance(node, yaml.ScalarNode):
        return len(node.value) + 2
    if isinstance(node, yaml.MappingNode):
        length = sum(_lay_out(key, room) + _lay_out(value, room) for key, value in node.value)
        node.flow_style = length <= room and not _lists(node)
        return length
    length = sum(_lay_out(item, room) for item in node.value) + 2
    row = all(isinstance(item, yaml.ScalarNode) for item in node.value)
    node.flow_style = row or (length <= room and not _maps(node))
    return length


def _maps(node: yaml.Node) -> bool:
    """Whether there is a mapping anywhere in it."""
    if isinstance(node, yaml.SequenceNode):
        return any(_maps(item) for item in node.value)
    return isinstance(node, yaml.MappingNode)


def _lists(node: yaml.MappingNode) -> bool:
    return any(not isinstance(value, yaml.ScalarNode) for _, value in node.value)
