"""The tables of the documentation that are made from code: all findings, and what shows each recorded fault.

python -m tests.doctor.coverage          rewrites them where they stand in docs/*.md
"""

from __future__ import annotations

import re
from pathlib import Path

from doctor import report
from tests.doctor.recordings import RECORDINGS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def table() -> str:
    """Return a Markdown table with a row per recorded fault: its metric, its alert, its findings."""
    rows = [
        f"| {one.title} | {_code(one.metric)} | {_code(one.alert)} | {', '.join(map(_code, one.names))} |"
        for one in RECORDINGS
        if one.names
    ]
    return "\n".join(["| fault | metric | alert | doctor |", "|---|---|---|---|", *rows])


def _code(word: str) -> str:
    return f"`{word}`" if word else "–"


def documents() -> str:
    """Return the text of all documents."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")))


def rewrite(path: Path) -> None:
    """Replace each table of ``path`` whose first two headings are those of a table made here."""
    text = path.read_text(encoding="utf-8")
    for new in (table(), report.table()):
        headings = re.escape("|".join(new.split("|", 3)[:3]))
        text = re.sub(rf"^{headings}\|.*\n(?:\|.*\n)+", new.replace("\\", r"\\") + "\n", text, flags=re.M)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for document in DOCS.glob("*.md"):
        rewrite(document)
