"""Log lines as scripts read them, and what is in none of them."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from service.contract.correlation import Trace
from service.contract.errors import (
    Abandoned,
    Busy,
    DeadlineExceeded,
    InputError,
    OutOfMemory,
    ShuttingDown,
)
from service.contract.log_line import join
from service.contract.request import Pair, Request, RequestTiming, Verdict
from service.settings import ROOT
from service.telemetry.logs import LOGGERS, LineFormatter, flush, one_line
from service.telemetry.request_log import LOG_SECONDS, RequestLog
from tests.fakes import YES, Clock
from tests.written_logs import OpenLogs, lines

SECRET = "my private sentence"
REQUEST = Request(
    *("req_1795000000_ab12", Pair(Image.new("RGB", (8, 8)), SECRET), 10.0, 25.0, "page"),
    size=(512, 384),
    prepared=0.05,
)


def test_a_judged_request_is_two_lines_in_the_agreed_form(
    open_logs: OpenLogs, tmp_path: Path, console: io.StringIO
) -> None:
    open_logs()
    log = RequestLog()
    log.started(replace(REQUEST, size=(512, 384)), {})
    scores = {"Yes": 0.9211, "No": 0.05, "Maybe": 0.0289}
    log.ended(
        REQUEST,
        Verdict.of(scores, duration=3.214, device="cpu"),
        RequestTiming(ahead=2, waited=0.25, computed=2.9, batch=3),
    )
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| INFO     \| "
    start, end = lines(tmp_path)
    assert re.fullmatch(
        stamp
        + r"REQUEST_START \| req_1795000000_ab12 \| TEXT_LEN=19 \| IMG_SIZE=\(512, 384\) \| SOURCE=page",
        start,
    )
    assert re.fullmatch(
        stamp
        + r"REQUEST_END \| req_1795000000_ab12 \| LABEL=Yes \| SCORE=0\.921 \| DURATION=3\.21s \| DEVICE=cpu"
        + r" \| SOURCE=page \| PREPARED=0\.05s \| AHEAD=2 \| WAITED=0\.25s \| COMPUTED=2\.90s \| BATCH=3",
        end,
    )
    assert console.getvalue().splitlines()[1:] == [start, end]


def test_json_lines_have_the_fields_of_text_lines(
    open_logs: OpenLogs, tmp_path: Path, console: io.StringIO
) -> None:
    text = LineFormatter()
    open_logs(form="json")
    scores = {"Yes": 0.9211, "No": 0.05, "Maybe": 0.0289}
    log, written = RequestLog(), logging.getLogger("service")
    log.started(REQUEST, {"control": 1})
    log.ended(REQUEST, Verdict.of(scores, duration=3.214, device="cpu"), RequestTiming(computed=2.9))
    written.critical('quoted "\n %s | PIPED', "\u2028\ud800é")
    logging.getLogger("urllib3").warning(SECRET)
    records = [json.loads(line) for line in lines(tmp_path)]
    assert [list(one)[:3] for one in records] == [["time", "level", "event"]] * 4
    start, end, fatal, library = records
    assert (start["request_id"], start["REMOVED"]) == (REQUEST.id, "control:1")
    assert (end["LABEL"], end["SCORE"], end["DURATION"]) == ("Yes", "0.921", "3.21s")
    assert (fatal["level"], fatal["event"], fatal["request_id"]) == ("FATAL", 'quoted "    é', "PIPED")
    assert (library["event"], library["LOGGER"]) == ("LIBRARY", "urllib3")
    assert datetime.fromisoformat(end["time"]).utcoffset() is not None
    assert [json.loads(line) for line in console.getvalue().splitlines()[1:]] == records
    record = logging.LogRecord("", logging.INFO, "", 0, join(end), None, None)
    assert text.format(record).endswith(f"| INFO     | {join(end)}")


def test_json_lines_about_the_log_itself_are_json(open_logs: OpenLogs, tmp_path: Path) -> None:
    open_logs(form="json")
    logging.getLogger("service").info("FIRST")
    flush()
    (tmp_path / "web_app.log").rename(tmp_path / "moved")
    logging.getLogger("service").info("SECOND")
    assert {json.loads(line)["event"] for line in lines(tmp_path)} == {"SECOND", "LOG_REOPENED"}


def test_json_files_are_rotated_at_a_whole_line(open_logs: OpenLogs, tmp_path: Path) -> None:
    open_logs(form="json", max_bytes=2000)
    for _ in range(100):
        RequestLog().started(REQUEST, {})
    flush()
    files = sorted(tmp_path.glob("web_app.log*"))
    assert [path.name for path in files] == ["web_app.log", "web_app.log.1", "web_app.log.2"]
    for path in files:
        assert path.stat().st_size <= 2000
        assert all(json.loads(line) for line in path.read_text().splitlines())


def test_the_client_s_ids_are_logged_at_the_end_of_each_line(open_logs: OpenLogs, tmp_path: Path) -> None:
    open_logs()
    request = replace(REQUEST, client_id="order-7", trace=Trace("4b" * 16, "0a" * 8, sampled=True))
    log = RequestLog()
    log.started(request, {})
    log.refused(request, InputError("There is no picture.", code="no_image"), 0.1)
    log.ended(request, Verdict.of({"Yes": 1, "No": 0, "Maybe": 0}, duration=1, device="cpu"), RequestTiming())
    log.ended(request, Verdict.none("error"), RequestTiming())
    written = lines(tmp_path)
    assert len(written) == 4
    assert all(line.endswith(f" | CLIENT_ID=order-7 | TRACE={'4b' * 16}") for line in written)
    assert [str(one).endswith(f" s | CLIENT_ID=order-7 | TRACE={'4b' * 16}") for one in log.recent] == [
        True
    ] * 2


def test_what_was_removed_from_a_text_is_counted_in_its_start_line(
    open_logs: OpenLogs, tmp_path: Path
) -> None:
    open_logs()
    RequestLog().started(replace(REQUEST, size=(1, 1)), {"zero_width": 3, "control": 1})
    assert " | REMOVED=control:1,zero_width:3" in lines(tmp_path)[0]


def test_an_error_is_told_in_our_words_and_its_cause_by_class_alone(
    open_logs: OpenLogs, tmp_path: Path
) -> None:
    open_logs()
    error = OutOfMemory("The GPU's memory is full. " + "x" * 200)
    error.__cause__ = RuntimeError(SECRET)
    RequestLog().ended(REQUEST, Verdict.none("error", duration=0.876, error=error), RequestTiming())
    (line,) = lines(tmp_path)
    assert "| WARNING  | REQUEST_ERROR | req_1795000000_ab12 | ERROR=OutOfMemory | MSG=The GPU's mem" in line
    assert "x" * 75 not in line  # the first 100 characters
    assert "| DURATION=0.88s | CAUSE=RuntimeError | REASON=error | SOURCE=page" in line


def test_a_refused_input_is_one_line(open_logs: OpenLogs, tmp_path: Path) -> None:
    open_logs()
    error = InputError("There is no picture.", code="no_image")
    RequestLog().refused(replace(REQUEST, id="req_1_a"), error, 0.004)
    (line,) = lines(tmp_path)
    head, _, tail = line.partition(" | MSG=There is no picture. | ")
    assert head.endswith("| INFO     | REQUEST_ERROR | req_1_a | ERROR=InputError")
    assert tail == "DURATION=0.00s | REASON=no_image | SOURCE=page"


def test_a_timeout_is_a_line_in_slow_requests_too(open_logs: OpenLogs, tmp_path: Path) -> None:
    open_logs()
    RequestLog().ended(REQUEST, Verdict.none("timeout", duration=15.0), RequestTiming(), "computing")
    (slow,) = lines(tmp_path, "slow_requests.log")
    columns = slow.split("\t")
    assert re.fullmatch(r"\d{10}", columns[0])
    assert columns[1:] == ["TIMEOUT", "19 chars", REQUEST.id, "computing", "15.00s", "512x384", "page"]
    assert len(lines(tmp_path)) == 1


def test_a_probe_writes_nothing_while_it_succeeds(open_logs: OpenLogs, tmp_path: Path) -> None:
    open_logs()
    probe = Request("req_1_p", REQUEST.pair, 0.0, 1.0, "probe")
    log = RequestLog()
    log.started(replace(probe, size=(64, 64)), {})
    log.ended(
        probe, Verdict.of({"Yes": 0.5, "No": 0.3, "Maybe": 0.2}, duration=1, device="cpu"), RequestTiming()
    )
    log.ended(probe, Verdict.none("error", error=OutOfMemory("The GPU's memory is full.")), RequestTiming())
    assert [line.split(" | ")[2] for line in lines(tmp_path)] == ["REQUEST_ERROR"]


def test_of_background_rows_only_failures_are_written_and_few_of_them(
    open_logs: OpenLogs, tmp_path: Path
) -> None:
    open_logs()
    clock = Clock()
    log, row = RequestLog(clock), replace(REQUEST, source="batch")
    log.started(row, {})
    log.ended(row, Verdict.of(YES, duration=1, device="cpu"), RequestTiming())
    log.refused(row, InputError("No text.", code="no_text"), 0.1)
    log.refused(row, Busy("full", retry_after=1.0), 0.1)
    log.late(row, "stopped", 1.0)
    for error in (Abandoned(), ShuttingDown("The service is stopping.")):
        log.ended(row, Verdict.none("stopping", error=error), RequestTiming())
    assert lines(tmp_path) == []
    late = DeadlineExceeded("No answer within 15 s.", seconds=15.0)
    for _ in range(6):
        log.ended(row, Verdict.none("timeout", error=late), RequestTiming(), "computing")
    assert len(lines(tmp_path)) == len(lines(tmp_path, "slow_requests.log")) == 1
    clock.move(LOG_SECONDS)
    log.ended(row, Verdict.none("error", error=OutOfMemory("Full.")), RequestTiming())
    log.started(REQUEST, {})
    *_, last, users = lines(tmp_path)
    assert "SOURCE=batch" in last
    assert last.endswith("MORE=5")
    assert "REQUEST_START" in users


def test_a_bug_that_repeats_itself_does_not_fill_the_log(open_logs: OpenLogs, tmp_path: Path) -> None:
    open_logs()
    clock = Clock()
    log = RequestLog(clock)
    for _ in range(1000):
        log.broken("unmapped exception from the model", KeyError())
    log.broken("the engine thread died", KeyError())
    assert len(lines(tmp_path)) == 2
    clock.move(LOG_SECONDS)
    log.broken("unmapped exception from the model", KeyError())
    assert "MORE=999" in lines(tmp_path)[-1]


def test_user_text_is_in_no_line_not_even_in_a_traceback(
    open_logs: OpenLogs, tmp_path: Path, console: io.StringIO
) -> None:
    open_logs()
    log = RequestLog()
    log.started(replace(REQUEST, size=(1, 1)), {})
    try:
        raise KeyError(REQUEST.pair.hypothesis)
    except KeyError as error:
        log.broken("unmapped exception from the model", error)
    log.ended(REQUEST, Verdict.none("timeout"), RequestTiming(), "waiting")
    log.late(REQUEST, "KeyError", 20.0)
    log.not_cancelling([REQUEST], 20.0)
    log.hung([REQUEST], 90.0)
    flush()
    written = "".join(path.read_text() for path in tmp_path.iterdir()) + console.getvalue()
    assert "KeyError" in written
    assert "WHERE=test_logs.py:" in written
    assert "| FATAL    | HUNG |" in written
    assert SECRET not in written


def test_no_message_can_begin_a_second_line() -> None:
    assert one_line("a\nFATAL\r\x1b[2J\u2028b") == "a FATAL  [2J b"


def test_our_other_modules_write_to_the_same_file(open_logs: OpenLogs, tmp_path: Path) -> None:
    open_logs()
    logging.getLogger("service.hub.resolve").info("from the hub")
    logging.getLogger("web_app").warning("from the page")
    assert [line.split(" | ")[2] for line in lines(tmp_path)] == ["from the hub", "from the page"]


def test_every_package_of_the_service_writes_to_the_log() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"lab", "tests", "evaluation"}
    assert packages <= set(LOGGERS)


def test_of_what_libraries_log_their_names_and_errors_are_written_and_never_their_words(
    open_logs: OpenLogs, tmp_path: Path, console: io.StringIO
) -> None:
    open_logs()
    library = logging.getLogger("urllib3.connectionpool")
    library.info("no matter: %s", SECRET)
    library.warning("retrying %s", SECRET)
    try:
        raise ConnectionResetError(SECRET)
    except ConnectionResetError:
        library.exception("failed for %s", SECRET)
    warned, failed = lines(tmp_path)
    assert re.search(
        r"\| WARNING  \| LIBRARY \| LOGGER=urllib3.connectionpool \| AT=test_logs.py:\d+$", warned
    )
    assert re.search(
        r"\| ERROR    \| LIBRARY \| .* \| ERROR=ConnectionResetError \| WHERE=test_logs.py:", failed
    )
    assert SECRET not in warned + failed + console.getvalue()


def test_a_library_that_repeats_itself_does_not_fill_the_log(
    open_logs: OpenLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_logs()
    for _ in range(50):
        logging.getLogger("waitress.queue").warning("Task queue depth is 7")
    logging.getLogger("another").warning("once")
    monkeypatch.setattr("service.telemetry.logs.REPEATED", 0.0)
    logging.getLogger("waitress.queue").warning("Task queue depth is 7")
    first, other, last = lines(tmp_path)
    assert "LOGGER=waitress.queue" in first
    assert "LOGGER=another" in other
    assert last.endswith(" | LEFT_OUT=49")


@pytest.mark.parametrize(("level", "written"), [("debug", 3), ("info", 2), ("error", 1)])
def test_a_level_may_be_asked_for(open_logs: OpenLogs, tmp_path: Path, level: str, written: int) -> None:
    open_logs(level=level)
    for number in (logging.DEBUG, logging.INFO, logging.ERROR):
        logging.getLogger("service").log(number, "said")
    assert len(lines(tmp_path)) == written


def test_a_thread_that_dies_is_a_line_without_its_errors_words(
    open_logs: OpenLogs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_logs()

    def die() -> None:
        raise KeyError(SECRET)

    thread = threading.Thread(target=die, name="victim")
    thread.start()
    thread.join()
    (line,) = lines(tmp_path)
    assert re.search(
        r"\| FATAL    \| BROKEN \| .* \| THREAD=victim \| ERROR=KeyError \| WHERE=test_logs.py:", line
    )
    assert SECRET not in capsys.readouterr().err


def test_both_files_are_rotated_and_old_ones_thrown_away(open_logs: OpenLogs, tmp_path: Path) -> None:
    open_logs(max_bytes=2000)
    for _ in range(100):
        RequestLog().ended(REQUEST, Verdict.none("timeout"), RequestTiming(), "computing")
    flush()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        f"{base}{end}" for base in ("slow_requests.log", "web_app.log") for end in ("", ".1", ".2")
    ]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
