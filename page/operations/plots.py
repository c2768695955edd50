"""Lines over time as SVG, drawn here: no library in the browser, nothing fetched or computed there.

The words around a drawing are HTML, so that they keep their size on a screen of any width; the drawing itself
stretches.
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
    """A named series, oldest point first; None where there is nothing to show. ``tone`` is 1 to 3."""

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
    """``count`` points over the last ``span`` seconds, each joining the values of the items of its time."""
    found: list[list[float]] = [[] for _ in range(count)]
    for item in items:
        index = count - 1 - int(age(item) / span * count)
        known = value(item)
        if 0 <= index < count and known is not None:
            found[index].append(known)
    return [join(values) if values else None for values in found]


def figure(
    title: str, lines: Sequence[Line], *, times: Sequence[str], shown: Callable[[float], str], least: float
) -> str:
    """The figure's HTML. ``times`` label the axis from left to right, ``shown`` writes a value with its unit,
    ``least`` is the smallest top of the scale, so that noise around zero stays small."""
    top = ceiling(max([least, *(point for line in lines for point in line.points if point is not None)]))
    legend = "".join(_entry(line, shown) for line in lines)
    told = "; ".join(f"{line.name}: {_told(line, shown)}" for line in lines)
    last = max((len(line.points) for line in lines), default=2) - 1
    drawn = "".join(_drawn(line, top) for line in lines)
    return (
        f'<figure class="plot"><figcaption><strong>{escape(title)}</strong>{legend}</figcaption>'
        f'<div class="plot-area"><span class="plot-top">{escape(shown(top))}</span>'
        f'<svg viewBox="0 0 {last} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(f"{title}. {told}")}">'
        f'<path class="plot-grid" d="M0 0H{last}M0 50H{last}M0 100H{last}"/>{drawn}</svg></div>'
        f'<div class="plot-times">{"".join(f"<span>{escape(time)}</span>" for time in times)}</div></figure>'
    )


def ceiling(value: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that ``value`` does not exceed."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1, 2, 5) if value <= step * power * (1 + 1e-9)), 10 * power)


def runs(points: Points) -> list[list[tuple[int, float]]]:
    """The unbroken pieces of a series, as (place, value)."""
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
        # a point alone has no length; a round line cap makes it a dot
        + ("h0" if len(piece) == 1 else "")
        for piece in runs(line.points)
    )
    return f'<path class="plot-line tone-{line.tone}" d="{path}"/>' if path else ""


def _entry(line: Line, shown: Callable[[float], str]) -> str:
    return (
        f'<span class="plot-key"><i class="tone-{line.tone}"></i>{escape(line.name)} '
        f"<b>{escape(_told(line, shown))}</b></span>"
    )


def _told(line: Line, shown: Callable[[float], str]) -> str:
    """The newest value."""
    known = [point for point in line.points[-2:] if point is not None]  # the last bucket may just have begun
    return shown(known[-1]) if known else "–"
