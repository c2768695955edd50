"""Plots of an evaluation: reliability, risk against coverage, confusion. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from service.contract.request import LABELS

matplotlib.use("Agg")  # no display
_SIZE = (5.0, 4.2)  # inches


def draw(conditions: Mapping[str, Mapping[str, Any]], folder: Path) -> list[str]:
    """Draw the figures of all conditions into ``folder``. Returns the files' names. Raises OSError."""
    plots = {
        "reliability.png": _reliability(conditions),
        "risk-coverage.png": _risk_coverage(conditions),
        "confusion.png": _confusion(conditions),
    }
    for name, figure in plots.items():
        figure.savefig(folder / name, dpi=110)
    return list(plots)


def _reliability(conditions: Mapping[str, Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=1, label="calibrated")
    for name, figures in conditions.items():
        bins = figures["reliability"]
        confidence, accuracy = ([one[key] for one in bins] for key in ("confidence", "accuracy"))
        (line,) = axes.plot(confidence, accuracy, linewidth=0.8, label=f"{name}, ECE {figures['ece']:.3f}")
        areas = [10 + 200 * one["pairs"] / figures["pairs"] for one in bins]
        axes.scatter(confidence, accuracy, areas, color=line.get_color())
    axes.set(xlabel="confidence (highest score)", ylabel="accuracy", xlim=(0.3, 1.02), ylim=(-0.02, 1.02))
    return _finished(figure)


def _risk_coverage(conditions: Mapping[str, Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    for name, figures in conditions.items():
        coverage, risk = zip(*figures["risk_coverage"], strict=True)
        axes.plot(coverage, risk, label=f"{name}, AURC {figures['aurc']:.3f}")
    axes.set(xlabel="coverage, most confident first", ylabel="share of errors", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    return _finished(figure)


def _finished(figure: Figure) -> Figure:
    (axes,) = figure.axes
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
    return figure


def _confusion(conditions: Mapping[str, Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(3.4 * len(conditions), 3.6), layout="constrained")
    grid = figure.subplots(1, len(conditions), squeeze=False)
    for axes, (name, figures) in zip(grid[0], conditions.items(), strict=True):
        counts = [[figures["confusion"][gold][label] for label in LABELS] for gold in LABELS]
        shares = [[count / max(1, sum(row)) for count in row] for row in counts]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, values in enumerate(counts):
            for column, count in enumerate(values):
                colour = "white" if shares[row][column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour)
        axes.set(xlabel="verdict", ylabel="correct label", title=name)
        axes.set_xticks(range(len(LABELS)), LABELS)
        axes.set_yticks(range(len(LABELS)), LABELS)
    return figure
