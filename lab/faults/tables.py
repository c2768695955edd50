"""Measurements in docs/faults.json, and the tables of the documentation made from them."""

from __future__ import annotations

import json
from typing import Any

from lab import ROOT
from lab.faults.catalogue import FAULTS
from lab.faults.soak import as_markdown

DOCS = ROOT / "docs"
KEPT = DOCS / "faults.json"
PAGE = DOCS / "fault-measurements.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HEAD = (
    "| fault | what users saw | detected, s | healthy, s | restarts | requests lost |\n"
    "|---|---|---|---|---|---|"
)
Kept = dict[str, Any]


def row(title: str, result: Kept) -> str:
    """Return one row of a watchdog's table."""
    if "skipped" in result:
        cells = [title, f"skipped: {result['skipped']}", "", "", "", ""]
    elif "users_saw" not in result:
        cells = [title, f"**{'; '.join(result['wrong'])}**", "", "", "", ""]
    else:
        wrong = f"**{'; '.join(result['wrong'])}**; " if result["wrong"] else ""
        seconds = [_seconds(result[name]) for name in ("detection", "healthy")]
        saw = "; ".join([result["users_saw"], *result.get("notes", ())])
        cells = [title, wrong + saw, *seconds, str(result["restarts"]), str(result["lost"])]
    return f"| {' | '.join(cells)} |"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def load() -> Kept:
    return dict(json.loads(KEPT.read_text("utf-8"))) if KEPT.exists() else {}


def save(kept: Kept) -> None:
    """Save the figures and update the tables in the documentation."""
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, f"{PAGE.name} lacks the markers around the tables"
    PAGE.write_text(f"{before}{BEGIN}\n\n{shown(kept)}\n\n{END}{after}", "utf-8")


def shown(kept: Kept) -> str:
    """Return the tables as Markdown."""
    parts = []
    if guardian := kept.get("guardian"):
        parts += ["### Under guardian.sh", _conditions(guardian), _table(guardian["rows"])]
    if naive := kept.get("naive"):
        parts += ["### Under the naive watchdog", _conditions(naive), _table(naive["rows"])]
    if soak := kept.get("soak"):
        parts += ["### A long overload", soak["machine"], as_markdown(soak)]
    return "\n\n".join(parts)


def _conditions(section: Kept) -> str:
    return f"{section['machine']} {section['others']}"


def _table(rows: dict[str, Kept]) -> str:
    titles = {fault.name: fault.title for fault in FAULTS}
    return "\n".join([HEAD, *(row(title, rows[name]) for name, title in titles.items() if name in rows)])
