"""Findings for people and for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from service.doctor.findings import AILMENTS, Finding
from service.doctor.reading import Records

WIDTH: Final = 100


def as_json(records: Records, findings: Sequence[Finding]) -> str:
    """One object: the folder, what was read, the findings, and the exit status."""
    told = {
        "run_dir": str(records.folder),
        "lines": len(records.app) + len(records.restarts),
        "requests": len(records.asked),
        "unreadable": records.unreadable,
        "status": status(findings),
        "findings": [one.as_dict() for one in findings],
    }
    return json.dumps(told, indent=2, ensure_ascii=False)


def as_text(records: Records, findings: Sequence[Finding]) -> str:
    return "\n".join(_lines(records, findings))


def status(findings: Sequence[Finding]) -> int:
    """0 for nothing to do, 1 with a warning, 2 with something critical."""
    severities = {one.severity for one in findings}
    return 2 if "critical" in severities else 1 if "warning" in severities else 0


def table() -> str:
    """Every ailment, as the documentation's table in Markdown."""
    rows = [f"| `{code}` | {one.severity} | {one.title} | {one.cure} |" for code, one in AILMENTS.items()]
    return "\n".join(["| finding | severity | what it is | what to do |", "|---|---|---|---|", *rows])


def _lines(records: Records, findings: Sequence[Finding]) -> Iterator[str]:
    for one in findings:
        yield f"{one.severity.upper():8}  {one.code}: {one.title}{_when(one)}"
        yield from (f"    | {line}" for line in one.evidence)
        yield from _wrapped("why: ", one.diagnosis)
        yield from _wrapped("do:  ", one.cure)
        yield ""
    for name in records.unreadable:
        yield f"could not be read: {name}"
    if records.postmortems and findings:
        yield f"post-mortems: {', '.join(records.postmortems)}"
    read = f"{len(records.app)} lines of web_app.log, {len(records.asked)} requests"
    count = len(findings)
    yield f"{'Nothing found' if not count else '1 finding' if count == 1 else f'{count} findings'} in {read}."


def _when(one: Finding) -> str:
    parts = [] if one.count == 1 else [f"{one.count} lines"]
    if one.since:
        parts.append(one.since if one.since == one.until else f"{one.since} to {one.until}")
    if one.over:
        parts.append("over")
    return f" ({', '.join(parts)})" if parts else ""


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"    {head}", subsequent_indent=" " * 9)
