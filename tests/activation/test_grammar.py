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
        ("x:a=1e+3", Request("x", {"a": 1000.0})),
        ("x:a=+3,b='c+d',c=[+1, 2]", Request("x", {"a": 3, "b": "c+d", "c": [1, 2]})),
    ],
)
def test_a_value_names_a_strategy_and_its_parameters(text: str, request_: Request) -> None:
    """Values are YAML scalars or lists; a comma in brackets or quotes separates nothing."""
    assert parse(text) == request_


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("teacache+invariant", Request([("teacache", {}), ("invariant", {})])),
        (
            " teacache : threshold=1e+3 , table='a+b' + invariant + fewer_steps:steps=+9",
            Request(
                [
                    ("teacache", {"threshold": 1000.0, "table": "a+b"}),
                    ("invariant", {}),
                    ("fewer_steps", {"steps": 9}),
                ]
            ),
        ),
        (
            "teacache:threshold=.1+invariant:dry_run=true,memory_limit=1GiB",
            Request(
                [("teacache", {"threshold": 0.1}), ("invariant", {})],
                {"dry_run": True, "memory_limit": "1GiB"},
            ),
        ),
        ("x:a=[b+c]+y", Request([("x", {"a": ["b+c"]}), ("y", {})])),
    ],
)
def test_plus_signs_join_strategies(text: str, request_: Request) -> None:
    """Each strategy has its parameters; those of `autocache.patch` itself are taken out."""
    assert parse(text) == request_


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teacache+", "at each side of a plus sign"),
        ("+teacache", "at each side of a plus sign"),
        ("teacache++invariant", "at each side of a plus sign"),
        ("x:dry_run=true+y:dry_run=true", "'dry_run' is given twice"),
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


def test_a_file_gives_several_strategies(tmp_path: Path) -> None:
    """`strategy` may be a list of names and of mappings; beside it stand the patch's options."""
    path = tmp_path / "fast.yaml"
    path.write_text(
        "strategy:\n  - strategy: teacache\n    parameters: {threshold: 0.1}\n  - invariant\n"
        "parameters: {dry_run: true}\n"
    )
    named = [("teacache", {"threshold": 0.1}), ("invariant", {})]
    assert parse(str(path)) == Request(named, {"dry_run": True})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("strategy: []\n", "list of strategies is empty"),
        ("strategy: [a, 3]\n", "expected a name or a mapping"),
        ("strategy: [{strategy: a, parameter: {}}]\n", "did you mean 'parameters'"),
        ("strategy: [a, b]\nparameters: {threshold: 1}\n", "not 'threshold'"),
        ("strategy: [{strategy: a, parameters: {dry_run: true}}]\n", "put it beside the list"),
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
