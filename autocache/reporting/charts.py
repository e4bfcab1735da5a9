"""Curves and bars as plain geometry, which a template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 12, 36
LINES = 4
"""Kinds of lines that can be told apart."""

Points = Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Line:
    """One series: the pieces of its line, its marks with what they say, and its kind."""

    name: str
    kind: str
    pieces: tuple[str, ...]
    marks: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    kind: str
    says: str


@dataclass(frozen=True)
class Chart:
    """A drawing of `WIDTH` x `HEIGHT`; ticks are a position and what stands there."""

    title: str
    summary: str
    unit: str
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    across: tuple[tuple[float, str], ...] = ()
    upward: tuple[tuple[float, str], ...] = ()


def ticks(top: float, count: int = 4) -> list[float]:
    """Round numbers from 0 to `top` or just above it."""
    if not math.isfinite(top) or top <= 0:
        return [0.0, 1.0]
    rough = top / count
    size = 10 ** math.floor(math.log10(rough))
    step = next(step for step in (size, 2 * size, 5 * size, 10 * size) if step >= rough * 0.999)
    return [index * step for index in range(math.ceil(top / step - 1e-9) + 1)]


def curves(
    title: str,
    unit: str,
    series: Sequence[tuple[str, Points]],
    limits: Sequence[tuple[str, Points]],
) -> Chart | None:
    """Lines over steps, those of `limits` as steps without marks; None where there is no value."""
    every = [*series, *limits]
    values = [y for _, points in every for _, y in points if y is not None and math.isfinite(y)]
    if not any(y is not None for _, points in series for _, y in points) or not values:
        return None
    scale = ticks(max(values))
    last = max(x for _, points in every for x, _ in points)

    def place(x: float, y: float) -> tuple[float, float]:
        return _across(x, last), _up(y, scale[-1])

    lines = [
        _line(name, f"line{index % LINES}", points, place)
        for index, (name, points) in enumerate(series)
    ]
    lines += [_line(name, "limit", points, place) for name, points in limits]
    seen = [y for _, points in series for _, y in points if y is not None and math.isfinite(y)]
    summary = f"{title}, from {min(seen):.3g} to {max(seen):.3g}{unit}" if seen else title
    across = tuple((_across(x, last), f"{x:g}") for x in _steps(last))
    upward = tuple((_up(y, scale[-1]), f"{y:.4g}") for y in scale)
    return Chart(title, summary, unit, tuple(lines), (), across, upward)


def _line(name: str, kind: str, points: Points, place) -> Line:
    pieces: list[list[str]] = [[]]
    marks = []
    for x, y in points:
        if y is None or not math.isfinite(y):
            pieces.append([])
            continue
        at = place(x, y)
        pieces[-1].append(f"{at[0]:.1f},{at[1]:.1f}")
        marks.append((round(at[0], 1), round(at[1], 1), f"{name}, step {x:g}: {y:.4g}"))
    drawn = tuple(" ".join(piece) for piece in pieces if len(piece) > 1)
    return Line(name, kind, drawn, tuple(marks) if kind != "limit" else ())


def bars(
    title: str, unit: str, values: Sequence[tuple[float, str, str]], labels: Sequence[str]
) -> Chart | None:
    """Bars side by side, each a value, its kind and what it says; `labels` stand below them."""
    finite = [value for value, _, _ in values if math.isfinite(value)]
    if not finite or max(finite) <= 0:
        return None
    scale = ticks(max(finite))
    room = (WIDTH - LEFT - RIGHT) / len(values)
    drawn = []
    for index, (value, kind, says) in enumerate(values):
        top = _up(value if math.isfinite(value) else 0.0, scale[-1])
        left = LEFT + room * (index + 0.1)
        height = max(HEIGHT - BOTTOM - top, 0.75)
        top = HEIGHT - BOTTOM - height
        drawn.append(Bar(_round(left), _round(top), _round(room * 0.8), _round(height), kind, says))
    summary = f"{title}, from {min(finite):.3g} to {max(finite):.3g}{unit}"
    shown = [int(x) for x in _steps(len(values) - 1) if x < len(values)]
    across = tuple((_round(LEFT + room * (index + 0.5)), labels[index]) for index in shown)
    upward = tuple((_up(y, scale[-1]), f"{y:.4g}") for y in scale)
    return Chart(title, summary, unit, (), tuple(drawn), across, upward)


def _round(value: float) -> float:
    return round(value, 1)


def _across(x: float, last: float) -> float:
    return _round(LEFT + 6 + (WIDTH - LEFT - RIGHT - 12) * (x / last if last else 0.5))


def _up(y: float, top: float) -> float:
    return _round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / top)


def _steps(last: float) -> list[float]:
    whole = {math.ceil(tick) for tick in ticks(last, 6)}
    return sorted(float(tick) for tick in whole if tick <= last)
