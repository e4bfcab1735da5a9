"""A profile's file: read, written, and refused with the line that is wrong."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import autocache
from autocache import Profile
from autocache.errors import AutocacheError, ProfileError
from autocache.tuning.made_for import MadeFor
from autocache.tuning.profile import Measured

WEIGHTS = [[[1.0]], [[1.0 / 3]], [[0.5, -1e-7]], [[1.25], [2.0]]] * 3
MADE_FOR: dict[str, Any] = {
    "models": [{"class": "package.module:Model", "config": "123456789012"}],
    "steps": 4,
    "times": [1000.0, 2000 / 3, 333.0, 1e-3],
    "scheduler": {"class": "SomeScheduler", "config": "12e456789012", "predicts": "flow"},
    "latents": [[64, 16], [16, 8, 8]],
    "guidance": {"calls": 2, "parts": 1, "scale": 4.5},
    "versions": {"autocache": "0.1.0", "torch": "2.10"},
}
MEASURED: dict[str, Any] = {
    "compute": 0.33333333,
    "time_ratio": 2.8,
    "machine": "2 cores: a test",
    "psnr": {"mean": 51.23456789, "p10": math.inf},
    "inputs": 24,
    "seeds": [100, 123],
}


def _whole() -> Profile:
    """With every key there is."""
    parameters = {"steps": [*range(12)], "total": 12, "weights": {"cond": WEIGHTS}, "dry_run": True}
    return Profile(
        strategy="schedule",
        parameters=parameters,
        made_for=MadeFor.model_validate(MADE_FOR),
        measured=Measured.model_validate(MEASURED),
    )


def _six_digits(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _six_digits(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_six_digits(item) for item in value]
    return pytest.approx(value, rel=1e-5) if isinstance(value, float) else value


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """To six digits, with text that looks like numbers still text; a second time to the letter."""
    whole = _whole()
    file = whole.write(tmp_path / "tuned.yaml")
    read = Profile.read(file)
    assert read.file == whole.file == file
    assert read.model_dump(by_alias=True) == _six_digits(whole.model_dump(by_alias=True))
    assert read.text() == file.read_text()
    assert Profile.parse(read.text()) == read
    assert [path.name for path in tmp_path.iterdir()] == ["tuned.yaml"]


def test_the_file_is_readable() -> None:
    """Comments first, the figures among them, rows of numbers on one line, no line too long."""
    lines = _whole().text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    assert lines[: len(head)] == head
    assert any("33% of the compute" in line and "51.2 dB" in line for line in head)
    assert any(line.strip() == "- [[0.5, -1.0e-07]]" for line in lines)
    assert "  steps: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]" in lines
    assert max(map(len, lines)) <= 100
    long = Profile(strategy="schedule", parameters={"steps": list(range(200)), "total": 300})
    assert len(long.text().splitlines()) < 20


@pytest.mark.parametrize(
    "strategy",
    [
        ("teacache", {"threshold": 0.25, "coefficients": (1.0, 0.0), "step_window": (2, 20)}),
        ("magcache", {"ratios": {"cond": (1.0, 0.5), "uncond": (1.0, 0.25)}}),
        ("fora", {"interval": 2, "blocks": {"transformer_blocks": (0, 2)}}),
        [("schedule", {"steps": (0, 3), "total": 5}), "invariant"],
    ],
)
def test_a_strategy_goes_through_a_file_unchanged(strategy: Any) -> None:
    """Whatever its parameters are made of, and several at once."""
    from autocache.choice import choose

    made = choose(strategy, {}, {}).strategy
    assert Profile.parse(Profile.of(made).text()).created() == made


def test_a_strategy_without_a_name_is_in_no_profile() -> None:
    """Nobody could find its parts again."""
    from autocache.how import Reuse
    from autocache.strategy.custom import Custom
    from autocache.when import Interval

    with pytest.raises(ProfileError, match="has no name"):
        Profile.of(Custom.create(when=Interval(2), how=Reuse()))


def test_two_keys_are_a_profile() -> None:
    """Written by hand: nothing is said of what it was made for, so nothing is compared."""
    assert Profile.parse("strategy: fora\n").created() == Profile.of(_fora()).created() == _fora()
    read = Profile.parse("strategy: fora\nparameters: {interval: 2, memory_limit: 1GiB}\n")
    assert read.created() == _fora(interval=2)
    assert read.created({"interval": 5}) == _fora(interval=5)
    assert read.options == {"memory_limit": "1GiB"}
    assert read.made_for is None
    assert Profile.parse("strategy: fora\nparameters:\n  # interval: 2\n").created() == _fora()
    several = Profile.parse(
        "strategy:\n  - strategy: fora\n    parameters: {interval: 2}\n  - invariant\n"
        "parameters: {dry_run: true}\n"
    )
    assert several.members() == [("fora", {"interval": 2}), ("invariant", {})]
    assert several.options == {"dry_run": True}


def _fora(**parameters: Any) -> Any:
    from autocache.strategy.fora import Fora

    return Fora.create(**parameters)


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("strategy: teacach\n", "1:1", "no strategy is named 'teacach'; did you mean 'teacache'?"),
        (
            "strategy: teacache\nparameters:\n  treshold: 1\n",
            "3:3",
            "teacache has no parameter 'treshold'; did you mean 'threshold'?",
        ),
        ("strategy: fora\nparameters: {interval: 0}\n", "2:14", "greater than or equal to 1"),
        (
            "strategy: schedule\nparameters: {steps: [0, 9], total: 5}\n",
            "2:1",
            "schedule: steps name step 9, and there are 5, from 0",
        ),
        ("strategy: fora\nparameters: {target: 1}\n", "2:14", "no parameter 'target'"),
        ("strategy: []\n", "1:1", "at least 1 item"),
        ("strategy: [fora, 3]\n", "1:18", "not 3"),
        ("strategy: [fora, tea]\n", "1:18", "no strategy is named 'tea'"),
        ("strategy:\n  - {strategy: fora, parameter: {}}\n", "2:22", "did you mean 'parameters'"),
        ("strategy:\n  - {strategy: forra}\n", "2:6", "did you mean 'fora'"),
        ("strategy: [fora, invariant]\nparameters: {interval: 1}\n", "2:14", "not 'interval'"),
        (
            "strategy: [{strategy: fora, parameters: {dry_run: true}}]\n",
            "1:42",
            "'dry_run' goes for all strategies; put it beside the list",
        ),
        ("strategy: fora\nparameter: {}\n", "2:1", "did you mean 'parameters'"),
        ("strategy: fora\nparameters: 3\n", "2:1", "'parameters' should be a valid dictionary"),
        ("strategy: 3\n", "1:1", "'strategy' should be a valid string, not 3"),
        ("parameters: {}\n", "1:1", "missing key 'strategy'"),
        ("- fora\n", "1:1", "expected a mapping"),
        ("strategy: [\n", "2:1", "not valid YAML"),
        ("strategy: fora\nstrategy: pab\n", "2:1", "given twice, first on line 1"),
        ("strategy: fora\nschema_version: 2\n", "2:1", "2 is not allowed; expected one of: 1"),
        ("strategy: fora\nmade_for: {stesp: 28}\n", "2:12", "did you mean 'steps'"),
        ("strategy: fora\nmade_for: {steps: 0}\n", "2:12", "greater than or equal to 1"),
        ("strategy: fora\nmade_for: {steps: '28'}\n", "2:12", "should be a valid integer"),
        (
            "strategy: fora\nmade_for: {models: [{class: Model}]}\n",
            "2:22",
            "expected 'package.module:Class', not 'Model'",
        ),
        ("strategy: fora\nmade_for:\n  scheduler: {config: a}\n", "3:3", "missing key 'class'"),
        ("strategy: fora\nmeasured: {psnr: {mean: 4}}\n", "2:12", "missing key 'p10'"),
        ("strategy: fora\nmade_for: {versions: {torch: 2.1}}\n", "2:23", "valid string, not 2.1"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    tmp_path: Path, content: str, line: str, message: str
) -> None:
    """What was expected too, and the nearest name."""
    path = tmp_path / "fast.yaml"
    path.write_text(content)
    with pytest.raises(ProfileError) as caught:
        Profile.read(path)
    first = str(caught.value).splitlines()[0]
    assert first.startswith(f"{path}:{line}: "), first
    assert message in first


def test_every_problem_is_told_at_once() -> None:
    """In the order of the file."""
    text = "strategy: fora\nmade_for:\n  steps: no\n  schedular: x\nmeasurd: 3\n"
    with pytest.raises(ProfileError) as caught:
        Profile.parse(text, "x.yaml")
    lines = [line.split(":")[1] for line in str(caught.value).splitlines()]
    assert lines == ["3", "4", "5"]


def test_a_file_that_cannot_be_written_is_an_error_naming_it(tmp_path: Path) -> None:
    """What is there already stays as it is."""
    with pytest.raises(ProfileError, match=r"gone/tuned\.yaml: cannot be written"):
        _whole().write(tmp_path / "gone" / "tuned.yaml")


WRONG = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
PLACES = [
    ("strategy",),
    ("parameters",),
    ("parameters", "steps"),
    ("parameters", "weights", "cond", 1),
    ("made_for",),
    *((("made_for", key)) for key in MADE_FOR),
    ("made_for", "models", 0),
    ("made_for", "scheduler", "predicts"),
    ("measured",),
    *((("measured", key)) for key in MEASURED),
    ("measured", "psnr", "mean"),
]


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(place=st.sampled_from(PLACES), value=WRONG)
def test_whatever_stands_in_a_file_is_a_profile_or_an_error_with_lines(
    place: tuple[str | int, ...], value: Any
) -> None:
    """A profile that is read can be made a strategy and written again."""
    content = yaml.safe_load(_whole().text())
    target: Any = content
    for part in place[:-1]:
        target = target[part]
    target[place[-1]] = value
    _read_or_refused(yaml.safe_dump(content, allow_unicode=True))


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 1500), st.text("[]{}:,-#&*!|>'\"% \n\tax0", min_size=1, max_size=6))
def test_a_damaged_file_is_a_profile_or_an_error_with_lines(at: int, inserted: str) -> None:
    """Characters with a meaning in YAML, anywhere in a good file."""
    text = _whole().text()
    _read_or_refused(text[:at] + inserted + text[at:])


def _read_or_refused(text: str) -> None:
    profile, problems = None, ""
    try:
        profile = Profile.parse(text, "x.yaml")
    except ProfileError as error:
        problems = str(error)
    assert all(re.match(r"x\.yaml:\d+:\d+: .", line) for line in problems.splitlines())
    if profile is None:
        assert problems
        return
    again = Profile.parse(profile.text())
    assert str(again.created()) == str(Profile.parse(again.text()).created())


def test_it_is_among_the_public_names() -> None:
    """And its error among those of the library."""
    assert autocache.Profile is Profile
    assert issubclass(ProfileError, AutocacheError)


def test_the_page_shows_a_profile_and_explains_every_key() -> None:
    """Its example is read, and no key goes without a row."""
    page = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert Profile.parse(example).made_for is not None
    rows = "\n".join(line for line in page.splitlines() if line.startswith("| `"))
    models = {"": Profile, "made_for.": MadeFor, "measured.": Measured}
    for prefix, model in models.items():
        for key in set(model.model_fields) - {"machine", "seeds"}:
            assert f"| `{prefix}{key}` |" in rows
    assert "the `machine`" in rows
    assert "the `seeds`" in rows
