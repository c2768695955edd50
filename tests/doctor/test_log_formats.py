"""The doctor reads web_app.log as text, as JSON and mixed: recorded logs, converted both ways."""

from __future__ import annotations

import calendar
import json
import re
import shutil
from pathlib import Path

import pytest

from doctor import examine, read, report
from service.contract.log_line import split
from tests.doctor.record import LOGS
from tests.doctor.recordings import RECORDINGS, Recording

_LINE = re.compile(r"(\S+) (\S+) \| (\w+) *\| (.*)\n")


def as_json(line: str) -> str:
    """Return a recorded text line as LineFormatter writes it with --log-format json."""
    found = _LINE.fullmatch(line)
    if found is None:
        return line
    date, clock, level, message = found.groups()
    return json.dumps({"time": f"{date}T{clock}+05:30", "level": level, **split(message)}) + "\n"


def converted(recording: Path, folder: Path, every: int) -> Path:
    """Copy a recording with every n-th line of web_app.log as JSON."""
    shutil.copytree(recording, folder)
    for path in folder.glob("web_app.log*"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        mixed = [line if number % every else as_json(line) for number, line in enumerate(lines)]
        path.write_text("".join(mixed), encoding="utf-8")
        assert any(line.startswith('{"time": ') for line in mixed)
    return folder


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda one: one.name)
def test_both_forms_give_the_same_findings(recording: Recording, every: int, tmp_path: Path) -> None:
    folder = converted(LOGS / recording.name, tmp_path / "run", every)
    assert read(folder).app == read(LOGS / recording.name).app
    assert examine(folder) == examine(LOGS / recording.name)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "{}",
        "[]",
        '{"time": 5, "level": "INFO", "event": "A"}',
        '{"time": "2026-11-26 10:00:00", "level": "INFO", "event": "A"}',
        '{"time": "2026-11-26T10:00:00+00:00", "level": "INFO"}',
        '{"time": "2026-11-26T10:00:00+00:00", "level": "INFO", "event": "A\\nB"}',
        '{"time":' * 100_000,
    ],
)
def test_a_damaged_json_line_is_skipped(line: str, tmp_path: Path) -> None:
    good = '{"time": "2026-11-26T10:00:00+00:00", "level": "INFO", "event": "GOOD", "PID": "7"}\n'
    (tmp_path / "web_app.log").write_text(f"{line}\n{good}")
    (found,) = read(tmp_path).app
    assert (found.message, found.number) == ("GOOD | PID=7", 2)
    assert found.at == calendar.timegm((2026, 11, 26, 10, 0, 0))


def test_a_finding_lists_the_ids_of_its_requests(tmp_path: Path) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    more = f"MSG={'x' * 100} | DURATION=1.00s | SOURCE=api | CLIENT_ID=order-7 | TRACE={trace}"
    (tmp_path / "web_app.log").write_text(
        f"2026-11-26 10:00:00 | WARNING  | REQUEST_ERROR | req_1_a | ERROR=NotFinite | {more}\n"
        "2026-11-26 10:00:01 | WARNING  | REQUEST_ERROR | req_1_b | ERROR=NotFinite | SOURCE=api\n"
    )
    records = read(tmp_path)
    (finding,) = json.loads(report.as_json(records, examine(tmp_path)))["findings"]
    assert finding["requests"] == [
        {"request_id": "req_1_a", "client_id": "order-7", "trace": trace},
        {"request_id": "req_1_b"},
    ]
