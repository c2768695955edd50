"""Time series as SVG, drawn on the server: the browser needs no library.

Labels are HTML, so that they keep their size while the SVG stretches with the screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

T = TypeVar("T")
Points = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Line:
    """A named series, oldest point first, None for a gap. ``tone`` is a colour, 1 to 3."""

    name: str
    tone: int
    points: Points


def bucketed(
    items: Iterable[T],
    age: Callable[[T], float],
    value: Callable[[T], float | None],
    *,
    span: float,
    count: int,
    join: Callable[[Sequence[float]], float] = max,
) -> list[float | None]:
    """Return ``count`` points over the last ``span`` seconds; ``join`` combines the values of one point."""
    buckets: list[list[float]] = [[] for _ in range(count)]
    for item in items:
        index = count - 1 - int(age(item) / span * count)
        known = value(item)
        if 0 <= index < count and known is not None:
            buckets[index].append(known)
    return [join(values) if values else None for values in buckets]


def figure(
    title: str, lines: Sequence[Line], *, times: Sequence[str], unit: Callable[[float], str], least: float
) -> str:
    """Return the figure's HTML. ``times`` label the axis from left to right, ``unit`` formats a value with
    its unit, ``least`` is the smallest top of the scale, so that noise around zero stays small."""
    top = ceiling(max([least, *(point for line in lines for point in line.points if point is not None)]))
    legend = "".join(_entry(line, unit) for line in lines)
    described = "; ".join(f"{line.name}: {_latest(line, unit)}" for line in lines)
    last = max((len(line.points) for line in lines), default=2) - 1
    drawn = "".join(_drawn(line, top) for line in lines)
    return (
        f'<figure class="plot"><figcaption><strong>{escape(title)}</strong>{legend}</figcaption>'
        f'<div class="plot-area"><span class="plot-top">{escape(unit(top))}</span>'
        f'<svg viewBox="0 0 {last} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(f"{title}. {described}")}">'
        f'<path class="plot-grid" d="M0 0H{last}M0 50H{last}M0 100H{last}"/>{drawn}</svg></div>'
        f'<div class="plot-times">{"".join(f"<span>{escape(time)}</span>" for time in times)}</div></figure>'
    )


def ceiling(value: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1, 2, 5) if value <= step * power * (1 + 1e-9)), 10 * power)


def runs(points: Points) -> list[list[tuple[int, float]]]:
    """Return the contiguous pieces of a series as (place, value)."""
    pieces: list[list[tuple[int, float]]] = [[]]
    for place, value in enumerate(points):
        if value is not None:
            pieces[-1].append((place, value))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _drawn(line: Line, top: float) -> str:
    path = "".join(
        "M"
        + "L".join(f"{place} {100 - 100 * value / top:.1f}" for place, value in piece)
        # a single point has no length; its round line cap makes it a dot
        + ("h0" if len(piece) == 1 else "")
        for piece in runs(line.points)
    )
    return f'<path class="plot-line tone-{line.tone}" d="{path}"/>' if path else ""


def _entry(line: Line, unit: Callable[[float], str]) -> str:
    return (
        f'<span class="plot-key"><i class="tone-{line.tone}"></i>{escape(line.name)} '
        f"<b>{escape(_latest(line, unit))}</b></span>"
    )


def _latest(line: Line, unit: Callable[[float], str]) -> str:
    """Format the newest value."""
    known = [point for point in line.points[-2:] if point is not None]  # the last bucket may be empty so far
    return unit(known[-1]) if known else "–"
