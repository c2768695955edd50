"""Plot latency against load; needs matplotlib, which only the bench uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(section: dict[str, Any], path: Path) -> None:
    """Plot answers per second and latency over the number of callers."""
    import matplotlib

    matplotlib.use("Agg")  # no display
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter

    levels = section["levels"]
    callers = [one["callers"] for one in levels]
    figure, (top, bottom) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 5.5), layout="constrained")
    top.plot(callers, [one["per_second"] for one in levels], "o-", color="#2b6cb0")
    top.set_ylabel("answers a second")
    top.set_ylim(bottom=0)
    for key, style in (("p50", "o-"), ("p95", "s--")):
        bottom.plot(callers, [one[key] for one in levels], style, label=key, color="#c05621")
    bottom.set_ylabel("latency in seconds")
    bottom.set_xlabel("callers, each asking again when answered")
    bottom.set_xscale("log", base=2)
    bottom.set_yscale("log")
    bottom.set_xticks(callers, [str(number) for number in callers])
    bottom.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bottom.yaxis.set_major_formatter("{x:g}")
    bottom.yaxis.set_minor_formatter(NullFormatter())
    bottom.legend()
    for axes in (top, bottom):
        axes.grid(visible=True, alpha=0.3)
    figure.suptitle(f"Through the engine, {section['side']}, {section['machine'].get('gpu', 'CPU')}")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
