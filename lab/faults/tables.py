"""What was measured, kept in docs/faults.json, and the tables that docs/operations.md shows of it."""

from __future__ import annotations

import json
from typing import Any

from lab import ROOT
from lab.faults.catalogue import FAULTS
from lab.faults.soak import in_words

DOCS = ROOT / "docs"
KEPT = DOCS / "faults.json"
PAGE = DOCS / "operations.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HEAD = (
    "| fault | what users saw | detected, s | healthy, s | restarts | requests lost |\n"
    "|---|---|---|---|---|---|"
)
Kept = dict[str, Any]


def row(title: str, told: Kept) -> str:
    """One row of the guardian's table, or of the naive watchdog's."""
    if "skipped" in told:
        cells = [title, f"skipped: {told['skipped']}", "", "", "", ""]
    elif "users_saw" not in told:
        cells = [title, f"**{'; '.join(told['wrong'])}**", "", "", "", ""]
    else:
        wrong = f"**{'; '.join(told['wrong'])}**; " if told["wrong"] else ""
        seconds = [_seconds(told[name]) for name in ("detection", "healthy")]
        saw = "; ".join([told["users_saw"], *told.get("notes", ())])
        cells = [title, wrong + saw, *seconds, str(told["restarts"]), str(told["lost"])]
    return f"| {' | '.join(cells)} |"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def load() -> Kept:
    return dict(json.loads(KEPT.read_text("utf-8"))) if KEPT.exists() else {}


def save(kept: Kept) -> None:
    """Keep the figures and put their tables into the documentation."""
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, f"{PAGE.name} has lost the marks between which the tables go"
    PAGE.write_text(f"{before}{BEGIN}\n\n{shown(kept)}\n\n{END}{after}", "utf-8")


def shown(kept: Kept) -> str:
    """The tables in Markdown."""
    parts = []
    if guardian := kept.get("guardian"):
        parts += ["### Under guardian.sh", _conditions(guardian), _table(guardian["rows"])]
    if naive := kept.get("naive"):
        parts += ["### Under the naive watchdog", _conditions(naive), _table(naive["rows"])]
    if soak := kept.get("soak"):
        parts += ["### A long overload", soak["machine"], in_words(soak)]
    return "\n\n".join(parts)


def _conditions(told: Kept) -> str:
    return f"{told['machine']} {told['others']}"


def _table(rows: dict[str, Kept]) -> str:
    titles = {fault.name: fault.title for fault in FAULTS}
    return "\n".join([HEAD, *(row(title, rows[name]) for name, title in titles.items() if name in rows)])
