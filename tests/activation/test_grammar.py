"""The value of AUTOCACHE."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocache.activation_grammar import Request, off, parse
from autocache.errors import AutocacheError, ParameterError


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("teacache", Request("teacache")),
        (" teacache ", Request("teacache")),
        ("teacache:threshold=0.1", Request("teacache", {"threshold": 0.1})),
        ("fora:interval=3,warmup=2", Request("fora", {"interval": 3, "warmup": 2})),
        (
            "attention:kinds=[self,cross],interval=2",
            Request("attention", {"kinds": ["self", "cross"], "interval": 2}),
        ),
        ("x: a = true , b = null", Request("x", {"a": True, "b": None})),
        ("x:a=1e-3", Request("x", {"a": 0.001})),
        ("x:memory_limit=2GiB", Request("x", {"memory_limit": "2GiB"})),
        ("x:a='1,2',b=k:v", Request("x", {"a": "1,2", "b": "k:v"})),
        ("x:a={b: 1, c: [2, 3]}", Request("x", {"a": {"b": 1, "c": [2, 3]}})),
    ],
)
def test_a_value_names_a_strategy_and_its_parameters(text: str, request_: Request) -> None:
    """Values are YAML scalars or lists; a comma in brackets or quotes separates nothing."""
    assert parse(text) == request_


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (":a=1", "strategy name"),
        ("x:a", "expected key=value, got 'a'"),
        ("x:", "expected key=value"),
        ("x:a=1,,b=2", "expected key=value"),
        ("x:a=1,a=2", "'a' is given twice"),
        ("x:strategy=y", "'strategy' is given twice"),
        ("x:a=[1", "not a YAML value"),
        ("x:a=!!python/name:os.system", "not a YAML value"),
    ],
)
def test_a_malformed_value_is_an_error_that_shows_it(text: str, message: str) -> None:
    """Nothing is guessed, and the message repeats what was set."""
    with pytest.raises(ParameterError, match="AUTOCACHE=") as caught:
        parse(text)
    assert message in str(caught.value)


def test_a_file_gives_strategy_and_parameters(tmp_path: Path) -> None:
    """A .yaml file holds the two keys; parameters may be left out."""
    path = tmp_path / "fast.yaml"
    path.write_text("strategy: fora\nparameters:\n  interval: 2\n")
    assert parse(str(path)) == Request("fora", {"interval": 2})
    path.write_text("strategy: fora\n")
    assert parse(str(path)) == Request("fora")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("strategy: fora\nparameter: {}\n", "did you mean 'parameters'"),
        ("- fora\n", "expected a mapping"),
        ("parameters: {}\n", "strategy: <name>"),
        ("strategy: fora\nparameters: 3\n", "to be a mapping"),
        ("strategy: [\n", "not YAML"),
    ],
)
def test_a_file_that_is_none_is_an_error_naming_it(
    tmp_path: Path, content: str, message: str
) -> None:
    """Unknown keys and wrong shapes are refused, with the file's name."""
    path = tmp_path / "fast.yaml"
    path.write_text(content)
    with pytest.raises(AutocacheError, match=r"fast\.yaml") as caught:
        parse(str(path))
    assert message in str(caught.value)


def test_a_missing_file_is_an_error_naming_it(tmp_path: Path) -> None:
    """A path is never taken for a strategy."""
    with pytest.raises(AutocacheError, match=r"gone\.yaml: cannot be read"):
        parse(str(tmp_path / "gone.yaml"))


@pytest.mark.parametrize("text", ["", " ", "off", "OFF", "0"])
def test_values_that_ask_for_nothing(text: str) -> None:
    """Empty, off and 0 leave everything as it is."""
    assert off(text)
    assert not off("teacache")
