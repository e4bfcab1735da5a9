"""The value of AUTOCACHE."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocache.activation_grammar import Request, off, parse
from autocache.errors import ParameterError, ProfileError
from autocache.tuning.profile import Profile


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


def test_a_file_is_a_profile(tmp_path: Path) -> None:
    """Read by the one reader there is, once for each content; two keys are enough, and the second
    may be left out."""
    path = tmp_path / "fast.yaml"
    path.write_text("strategy: fora\nparameters:\n  interval: 2\n")
    assert parse(f" {path} ") == Request(Profile(strategy="fora", parameters={"interval": 2}))
    path.write_text("strategy: fora\n")
    first = parse(str(path))
    assert first == Request(Profile(strategy="fora"))
    assert parse(str(path)).strategy is first.strategy


def test_a_file_that_is_none_is_an_error_naming_file_and_line(tmp_path: Path) -> None:
    """What else can be wrong with one is tested with the reader."""
    path = tmp_path / "fast.yaml"
    path.write_text("strategy: fora\nparameter: {}\n")
    with pytest.raises(ProfileError, match=r"fast\.yaml:2:1: .*did you mean 'parameters'"):
        parse(str(path))


def test_a_missing_file_is_an_error_naming_it(tmp_path: Path) -> None:
    """A path is never taken for a strategy."""
    with pytest.raises(ProfileError, match=r"gone\.yaml:1:1: cannot read the file"):
        parse(str(tmp_path / "gone.yaml"))


@pytest.mark.parametrize("text", ["", " ", "off", "OFF", "0"])
def test_values_that_ask_for_nothing(text: str) -> None:
    """Empty, off and 0 leave everything as it is."""
    assert off(text)
    assert not off("teacache")
