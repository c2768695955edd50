"""What the endpoints say now, if the instance runs: asked on this machine alone, and briefly."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from doctor.findings import Finding, found
from doctor.reading import Records

SECONDS: Final = 3.0
_ADDRESS: Final = re.compile(r"Health: (http://\S+?)/health\b")
_SHORT: Final = ("memory", "disk", "gpu")


def look(records: Records) -> Iterator[Finding]:
    """Findings of the present; none when nothing runs in this folder."""
    address = pid_file(records.folder).get("health") or address_of(records)
    if address is None or not runs(records.folder):
        return
    answer = ask(address)
    if answer is None:
        yield found("not-answering", [], told=[f"{address}/health gave no answer within {SECONDS:g} s"])
        return
    yield from _judged(answer)


def _judged(answer: Mapping[str, Any]) -> Iterator[Finding]:
    details = answer.get("details", {})
    words = ", ".join(f"{name} {word}" for name, word in details.items())
    if answer.get("status") != "healthy":
        if state := answer.get("queue", {}).get("state"):
            words += f", queue {state}"  # stopping, or wedged, which no other word says
        yield found("unhealthy-now", [], told=[f"/health: {words}"], said=words)
    if degraded := answer.get("model", {}).get("degraded"):
        yield found("degraded-now", [], told=[f"/health: {degraded}"], said=degraded)
    short = [f"{name} {details[name]}" for name in _SHORT if details.get(name) in ("warning", "critical")]
    if failing := answer.get("log_failing"):
        said = f"log_failing {failing}, log_lines_lost {answer.get('log_lines_lost')}"
        yield found("log-failing", [], told=[f"/health: {said}"], said=said)
    if short:
        yield found("resources-short", [], told=[f"/health: {words}"], said=", ".join(short))


def address_of(records: Records) -> str | None:
    """Where the newest process said that its health API listens, as it can be reached from here."""
    for line in reversed(records.app):
        if told := _ADDRESS.match(line.message):
            return told[1].replace("//0.0.0.0:", "//127.0.0.1:").replace("//:::", "//[::1]:")
    return None


def pid_file(folder: Path) -> Mapping[str, str]:
    """The fields of web_app.pid, the process's number as ``pid``; empty for none that can be read. What it
    says is of the instance that runs, which the log of a full or read-only folder may know nothing of."""
    try:
        # Without waiting, in case somebody put a pipe there.
        with open(os.open(folder / "web_app.pid", os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            pid, *rest = file.read(4096).decode("ascii", "replace").split()
    except (OSError, ValueError):
        return {}
    fields = (word.partition("=") for word in rest)
    return {"pid": pid, **{key: value for key, equals, value in fields if equals}}


def runs(folder: Path) -> bool:
    """Whether the process that web_app.pid names lives."""
    pid = pid_file(folder).get("pid", "")
    return pid.isdigit() and Path(f"/proc/{pid}").exists()


def ask(address: str) -> Mapping[str, Any] | None:
    """What /health answers; None if nobody does, or nothing that can be read."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/health", timeout=SECONDS) as answer:
            told = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            try:
                told = json.load(error)
            except ValueError:
                return None
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None
