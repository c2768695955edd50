"""The table of faults: which metric shows each, which alert it raises, what the doctor calls it.

python -m tests.doctor.coverage          prints the table of docs/metrics.md
"""

from __future__ import annotations

from tests.doctor.recordings import RECORDINGS


def table() -> str:
    """In Markdown, a row for each recorded fault."""
    rows = [
        f"| {one.title} | {_code(one.metric)} | {_code(one.alert)} | {', '.join(map(_code, one.names))} |"
        for one in RECORDINGS
        if one.names
    ]
    return "\n".join(["| fault | metric | alert | doctor |", "|---|---|---|---|", *rows])


def _code(word: str) -> str:
    return f"`{word}`" if word else "–"


if __name__ == "__main__":
    print(table())
