"""The report of an evaluation as Markdown, and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from evaluation.conditions import BY_NAME
from service.contract.request import LABELS

REPORT: Final = "report.json"
VERDICTS: Final = "verdicts.jsonl"
_SHOWN_ROWS: Final = 50


def markdown(report: Mapping[str, Any], plots: Sequence[str]) -> str:
    """Return the report for people."""
    data, model, conditions = report["data"], report["model"], report["conditions"]
    seconds = report["seconds_a_pair"]
    lines = [
        f"# {model['name']} on {data['name']}",
        "",
        f"Data: format {data['format']}, {data['rows']} rows, SHA-256 `{data['sha256'][:16]}…`. "
        f"Model: {model['name']}, weights `{model['weights_sha256'][:16]}…`, {model['device']}, "
        f"{model['dtype']}.",
        "",
        f"- Judged under all conditions: {data['judged']} pairs."
        + ("" if seconds is None else f" {seconds:.4f} s a pair."),
        f"- Left out as their publishers ask: {_counts(data['skipped'])}.",
        f"- Bad rows, not judged: {_counts(data['bad'])}.",
        "",
        *(f"- **{name}**: {BY_NAME[name].meaning}" for name in conditions),
        "",
        *(_accuracy(conditions) if conditions else ["No pair was judged."]),
    ]
    if conditions and not data["pairwise"]:
        lines += ["", *_calibration(conditions)]
        for name, figures in conditions.items():
            lines += ["", f"## {name}", "", *_classes(figures)]
    lines += _categories(conditions)
    lines += ["", *(f"![{name.removesuffix('.png')}]({name})" for name in plots)] if plots else []
    lines += _bad_rows(report["bad_rows"])
    return "\n".join(lines) + "\n"


def write_whole(path: Path, text: str, mode: int | None = None) -> None:
    """Write the file completely or not at all. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    if mode is not None:
        partial.chmod(mode)
    partial.replace(path)


def _accuracy(conditions: Mapping[str, Any]) -> list[str]:
    lines = [
        "| condition | pairs | right | accuracy | 95 % interval | majority |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in conditions.items():
        majority = one["majority"]
        lines.append(
            f"| {name} | {one['pairs']} | {one['right']} | {one['accuracy']['value']:.1%} | "
            f"{_interval(one['accuracy'])} | {majority['accuracy']:.1%} ({majority['label']}) |"
        )
    return lines


def _calibration(conditions: Mapping[str, Any]) -> list[str]:
    keys = ("nll", "brier", "ece", "ece_adaptive", "aurc")
    return [
        "| condition | NLL | Brier | ECE | adaptive ECE | AURC |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | " + " | ".join(f"{figures[key]:.4f}" for key in keys) + " |"
            for name, figures in conditions.items()
        ),
    ]


def _classes(figures: Mapping[str, Any]) -> list[str]:
    lines = [
        "| correct label | pairs | precision | recall | F1 | "
        + " | ".join(f"judged {label}" for label in LABELS)
        + " |",
        "|---" * 8 + "|",
    ]
    for label in LABELS:
        one = figures["classes"][label]
        cells = [_share(one[key]) for key in ("precision", "recall", "f1")]
        counts = [str(figures["confusion"][label][verdict]) for verdict in LABELS]
        lines.append(f"| {label} | {one['pairs']} | " + " | ".join([*cells, *counts]) + " |")
    return lines


def _categories(conditions: Mapping[str, Any]) -> list[str]:
    """Return the accuracy by category, side by side; nothing if the data has no categories."""
    names = next(iter(conditions.values()))["categories"] if conditions else {}
    if not names:
        return []
    lines = ["", "## Categories", "", "| category | pairs | " + " | ".join(conditions) + " |"]
    lines.append("|---" * (len(conditions) + 2) + "|")
    for category, first in names.items():
        cells = [
            f"{one['value']:.1%} ({_interval(one)})"
            for one in (figures["categories"][category]["accuracy"] for figures in conditions.values())
        ]
        lines.append(f"| {category} | {first['pairs']} | " + " | ".join(cells) + " |")
    return lines


def _bad_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = ["", "## Bad rows", "", "| row | id | code | error |", "|---|---|---|---|"]
    for one in rows[:_SHOWN_ROWS]:
        name = str(one["id"]).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {one['line']} | {name} | `{one['code']}` | {one['error']} |")
    if len(rows) > _SHOWN_ROWS:
        lines += ["", f"The other {len(rows) - _SHOWN_ROWS} are in {REPORT}."]
    return lines


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × `{code}`" for code, count in counts.items()) or "none"


def _interval(share: Mapping[str, float]) -> str:
    return f"{share['low']:.1%} to {share['high']:.1%}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
