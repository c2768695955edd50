"""Findings as text for people, as JSON for programs, and all problems as a table for the documentation."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from doctor.findings import PROBLEMS, SEVERITIES, TEXTS, Finding
from doctor.reading import Records
from service.texts import Language, load_texts

WIDTH: Final = 100
_REPORT: Final = load_texts(TEXTS, "report")


def as_json(records: Records, findings: Sequence[Finding], language: Language = "en") -> str:
    """Return one object: the folder, how much was read, the findings, and the exit status."""
    report = {
        "run_dir": str(records.folder),
        "lines": len(records.app) + len(records.restarts),
        "requests": len(records.requests),
        "unreadable": records.unreadable,
        "status": status(findings),
        "findings": [one.as_dict(language) for one in findings],
    }
    return json.dumps(report, indent=2, ensure_ascii=False)


def as_text(records: Records, findings: Sequence[Finding], language: Language = "en") -> str:
    """Return the findings with their evidence, and a closing line."""
    return "\n".join(_lines(records, findings, language))


def status(findings: Sequence[Finding]) -> int:
    """Return the exit status: 0 without a warning, 1 with one, 2 with a critical finding."""
    severities = {one.severity for one in findings}
    return 2 if "critical" in severities else 1 if "warning" in severities else 0


def table() -> str:
    """Return every problem as a Markdown table."""
    texts = PROBLEMS["en"]
    rows = [
        f"| `{code}` | {severity} | {texts[f'{code}.title']} | {texts[f'{code}.fix']} |"
        for code, severity in SEVERITIES.items()
    ]
    return "\n".join(["| finding | severity | problem | fix |", "|---|---|---|---|", *rows])


def _lines(records: Records, findings: Sequence[Finding], language: Language) -> Iterator[str]:
    words = _REPORT[language]
    for one in findings:
        text = one.text(language)
        head = words["head"].format(severity=words[one.severity], code=one.code, title=text.title)
        yield head + _when(one, words)
        yield from (f"    | {line}" for line in one.evidence)
        yield from _paragraph(words["why"], text.diagnosis, language)
        yield from _paragraph(words["fix"], text.fix, language)
        yield ""
    for name in records.unreadable:
        yield words["unreadable"].format(name=name)
    if records.postmortems and findings:
        yield words["postmortems"].format(names=words["comma"].join(records.postmortems))
    count = len(findings)
    result = words["none" if not count else "one" if count == 1 else "many"].format(count=count)
    yield words["end"].format(found=result, lines=len(records.app), requests=len(records.requests))


def _when(one: Finding, words: Mapping[str, str]) -> str:
    parts = [] if one.count == 1 else [words["lines"].format(count=one.count)]
    if one.since:
        same = one.since == one.until
        parts.append(one.since if same else words["span"].format(since=one.since, until=one.until))
    if one.resolved:
        parts.append(words["resolved"])
    return words["when"].format(parts=words["comma"].join(parts)) if parts else ""


def _paragraph(head: str, text: str, language: Language) -> list[str]:
    if language == "zh":  # has no spaces to break at; a terminal breaks it anywhere
        return [f"    {head}{text}"]
    return textwrap.wrap(text, WIDTH, initial_indent=f"    {head}", subsequent_indent=" " * 9)
