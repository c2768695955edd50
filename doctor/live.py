"""Problems that the health endpoint of a running instance reports, requested on this machine only."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from doctor.findings import Finding, found
from doctor.reading import Records

TIMEOUT: Final = 3.0  # seconds
_ADDRESS: Final = re.compile(r"(?:LISTENING \| SERVER=health \| URL=|Health: )(http://\S+?)/health\b")
_RESOURCES: Final = ("memory", "disk", "gpu")


def check(records: Records) -> Iterator[Finding]:
    """Yield the problems of the running instance; none if no instance runs in this folder."""
    address = pid_file(records.folder).get("health") or address_of(records)
    if address is None or not runs(records.folder):
        return
    health = request(address)
    if health is None:
        yield found("not-answering", [], quotes=[f"{address}/health did not answer within {TIMEOUT:g} s"])
        return
    for code, answer in _problems(health):
        yield found(code, [], quotes=[f"/health: {answer}"], answer=answer)


def _problems(health: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield code and evidence of each problem in a /health answer."""
    details = health.get("details", {})
    if health.get("status") != "healthy":
        answer = ", ".join(f"{name} {word}" for name, word in details.items())
        if state := health.get("queue", {}).get("state"):
            answer += f", queue {state}"  # stopping or wedged: not in the details
        yield "unhealthy-now", answer
    if degraded := health.get("model", {}).get("degraded"):
        yield "degraded-now", degraded
    if error := health.get("log_failing"):
        yield "log-failing", f"log_failing {error}, log_lines_lost {health.get('log_lines_lost')}"
    short = [f"{name} {details[name]}" for name in _RESOURCES if details.get(name) in ("warning", "critical")]
    if short:
        yield "resources-short", ", ".join(short)


def address_of(records: Records) -> str | None:
    """Return the newest health address in web_app.log, as reachable from this machine."""
    for line in reversed(records.app):
        if match := _ADDRESS.match(line.message):
            return match[1].replace("//0.0.0.0:", "//127.0.0.1:").replace("//:::", "//[::1]:")
    return None


def pid_file(folder: Path) -> Mapping[str, str]:
    """Return the fields of web_app.pid, with the process id as ``pid``; empty if it cannot be read. Unlike
    the log, it is right even where the log's disk is full or read-only."""
    try:
        # Non-blocking, as the path may be a pipe.
        with open(os.open(folder / "web_app.pid", os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            pid, *rest = file.read(4096).decode("ascii", "replace").split()
    except (OSError, ValueError):
        return {}
    fields = (word.partition("=") for word in rest)
    return {"pid": pid, **{key: value for key, equals, value in fields if equals}}


def runs(folder: Path) -> bool:
    """Return whether the process in web_app.pid exists."""
    pid = pid_file(folder).get("pid", "")
    return pid.isdigit() and Path(f"/proc/{pid}").exists()


def request(address: str) -> Mapping[str, Any] | None:
    """Return the answer of /health; None without an answer or if it is not a JSON object."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        try:
            response = opener.open(f"{address}/health", timeout=TIMEOUT)
        except urllib.error.HTTPError as error:  # 503 carries the same object
            response = error
        with response:
            answer = json.load(response)
    except (OSError, HTTPException, ValueError):
        return None
    return answer if isinstance(answer, dict) else None
