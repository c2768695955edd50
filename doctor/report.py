"""Findings for people and for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from doctor.english import AILMENTS
from doctor.findings import Finding, Language
from doctor.reading import Records

WIDTH: Final = 100
_SAID: Final[Mapping[Language, Mapping[str, str]]] = {
    "en": {
        "critical": "CRITICAL",
        "warning": "WARNING ",
        "info": "INFO    ",
        "head": "{severity}  {code}: {title}",
        "when": " ({parts})",
        "comma": ", ",
        "lines": "{count} lines",
        "span": "{since} to {until}",
        "over": "over",
        "why": "why: ",
        "do": "do:  ",
        "unreadable": "could not be read: {name}",
        "postmortems": "post-mortems: {names}",
        "none": "Nothing found",
        "one": "1 finding",
        "many": "{count} findings",
        "end": "{found} in {lines} lines of web_app.log, {requests} requests.",
    },
    "zh": {
        "critical": "严重",
        "warning": "警告",
        "info": "提示",
        "head": "{severity}  {code}：{title}",
        "when": "（{parts}）",
        "comma": "，",
        "lines": "{count} 行",
        "span": "{since} 至 {until}",
        "over": "已过去",
        "why": "原因：",
        "do": "对策：",
        "unreadable": "无法读取：{name}",
        "postmortems": "事后报告：{names}",
        "none": "没有发现问题",
        "one": "发现 1 个问题",
        "many": "发现 {count} 个问题",
        "end": "在 web_app.log 的 {lines} 行、{requests} 个请求中，{found}。",
    },
}


def as_json(records: Records, findings: Sequence[Finding], language: Language = "en") -> str:
    """One object: the folder, what was read, the findings, and the exit status."""
    told = {
        "run_dir": str(records.folder),
        "lines": len(records.app) + len(records.restarts),
        "requests": len(records.asked),
        "unreadable": records.unreadable,
        "status": status(findings),
        "findings": [one.as_dict(language) for one in findings],
    }
    return json.dumps(told, indent=2, ensure_ascii=False)


def as_text(records: Records, findings: Sequence[Finding], language: Language = "en") -> str:
    return "\n".join(_lines(records, findings, language))


def status(findings: Sequence[Finding]) -> int:
    """0 for nothing to do, 1 with a warning, 2 with something critical."""
    severities = {one.severity for one in findings}
    return 2 if "critical" in severities else 1 if "warning" in severities else 0


def table() -> str:
    """Every ailment, as the documentation's table in Markdown."""
    rows = [f"| `{code}` | {one.severity} | {one.title} | {one.cure} |" for code, one in AILMENTS.items()]
    return "\n".join(["| finding | severity | what it is | what to do |", "|---|---|---|---|", *rows])


def _lines(records: Records, findings: Sequence[Finding], language: Language) -> Iterator[str]:
    said = _SAID[language]
    for one in findings:
        words = one.told(language)
        head = said["head"].format(severity=said[one.severity], code=one.code, title=words.title)
        yield head + _when(one, said)
        yield from (f"    | {line}" for line in one.evidence)
        yield from _paragraph(said["why"], words.diagnosis, language)
        yield from _paragraph(said["do"], words.cure, language)
        yield ""
    for name in records.unreadable:
        yield said["unreadable"].format(name=name)
    if records.postmortems and findings:
        yield said["postmortems"].format(names=said["comma"].join(records.postmortems))
    count = len(findings)
    found = said["none" if not count else "one" if count == 1 else "many"].format(count=count)
    yield said["end"].format(found=found, lines=len(records.app), requests=len(records.asked))


def _when(one: Finding, said: Mapping[str, str]) -> str:
    parts = [] if one.count == 1 else [said["lines"].format(count=one.count)]
    if one.since:
        same = one.since == one.until
        parts.append(one.since if same else said["span"].format(since=one.since, until=one.until))
    if one.over:
        parts.append(said["over"])
    return said["when"].format(parts=said["comma"].join(parts)) if parts else ""


def _paragraph(head: str, text: str, language: Language) -> list[str]:
    if language == "zh":  # has no spaces to break at; a terminal breaks it anywhere
        return [f"    {head}{text}"]
    return textwrap.wrap(text, WIDTH, initial_indent=f"    {head}", subsequent_indent=" " * 9)
