"""Logs on a disk that is full, blocked or read-only, behind a console nobody reads, moved by others."""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest

from service.contract.errors import SettingsError
from service.telemetry.log_writers import LogFile
from service.telemetry.logs import Logs, failing, flush, lost_lines
from tests.fakes import until
from tests.written_logs import OpenLogs, lines


def test_a_full_disk_loses_lines_and_nothing_else(
    open_logs: OpenLogs, tmp_path: Path, console: io.StringIO
) -> None:
    """/dev/full is a disk that is always full; afterwards the file gets its room back."""
    (tmp_path / "web_app.log").symlink_to("/dev/full")
    open_logs()
    for _ in range(2):
        logging.getLogger("service").info("lost")
    flush()
    assert (lost_lines(), failing()) == (3, "ENOSPC")  # these two, and the one that says that it started
    assert console.getvalue().count("lost") == 2  # the console has them
    (tmp_path / "web_app.log").unlink()
    logging.getLogger("service").info("kept")
    assert [line.split(" | ")[2:] for line in lines(tmp_path)] == [["kept"], ["LOG_GAP", "LOST=3"]]
    assert (lost_lines(), failing()) == (3, None)


def test_a_folder_that_cannot_be_made_is_survived(
    open_logs: OpenLogs, tmp_path: Path, console: io.StringIO
) -> None:
    (tmp_path / "file").write_text("in the way")
    open_logs(tmp_path / "file" / "run")
    logging.getLogger("service").info("said")
    flush()
    assert (lost_lines(), failing()) == (2, "ENOTDIR")
    assert "said" in console.getvalue()


def test_a_closed_console_is_survived(open_logs: OpenLogs, tmp_path: Path) -> None:
    gone = io.StringIO()
    gone.close()
    open_logs(to=gone)
    logging.getLogger("service").info("said")
    assert lines(tmp_path)[0].endswith("said")


# ---- what must not hold up anybody -----------------------------------------------------------------------


@pytest.fixture
def stuck_pipe() -> Iterator[tuple[TextIO, int]]:
    """The end of a pipe that nobody reads, and the other one."""
    reader, writer = os.pipe()
    console = os.fdopen(writer, "w")
    yield console, reader
    with suppress(OSError):
        os.close(reader)  # ends a write that still waits
    with suppress(OSError):
        console.close()


def test_a_console_that_nobody_reads_holds_up_nobody_and_not_the_file(
    open_logs: OpenLogs, tmp_path: Path, stuck_pipe: tuple[TextIO, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.telemetry.log_writers.QUEUED", 1000)
    console, reader = stuck_pipe
    logs = open_logs(to=console)
    log = logging.getLogger("service")
    for number in range(3000):  # a pipe holds some hundred lines
        log.info("%d %s", number, "x" * 100)
        until(logs._file._lines.empty)  # the file keeps up, the console does not
    assert lines(tmp_path)[-1].split(" | ")[2].startswith("2999 ")
    assert lost_lines() == 0, "the file has them all"
    assert logs._console.lost > 0
    with os.fdopen(reader, "rb", closefd=False) as reading:  # somebody looks again
        gap = next(line for line in reading if b" | LOG_GAP | LOST=" in line)
    assert int(gap.split(b"LOST=")[1]) > 0


def test_a_console_that_nobody_reads_ends_no_stop(
    open_logs: OpenLogs, stuck_pipe: tuple[TextIO, int]
) -> None:
    logs = open_logs(to=stuck_pipe[0])
    for _ in range(2000):
        logging.getLogger("service").info("x" * 100)
    logs.close()
    assert logs._console._thread.is_alive(), "it still waits, and nobody waits for it"
    os.close(stuck_pipe[1])
    logs._console._thread.join()


def test_a_disk_that_does_not_answer_is_called_blocked(
    open_logs: OpenLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.telemetry.log_writers.BLOCKED_SECONDS", 0.05)
    os.mkfifo(tmp_path / "web_app.log")
    reader = os.open(tmp_path / "web_app.log", os.O_RDONLY | os.O_NONBLOCK)
    logs = open_logs()
    for _ in range(2000):
        logging.getLogger("service").info("x" * 100)
    until(lambda: failing() == "BLOCKED")

    def unblocked() -> bool:
        with suppress(BlockingIOError):
            os.read(reader, 1 << 16)
        return failing() is None and logs._file._lines.empty()

    until(unblocked)
    logs.close()
    os.close(reader)


# ---- what others do with the files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "reason"), [("moved", "moved"), ("replaced", "moved"), ("deleted", "deleted")]
)
def test_a_file_that_was_moved_or_deleted_is_opened_again_and_says_so(
    open_logs: OpenLogs, tmp_path: Path, harm: str, reason: str
) -> None:
    open_logs()
    log, path = logging.getLogger("service"), tmp_path / "web_app.log"
    log.info("before")
    flush()
    if harm == "deleted":
        path.unlink()
    else:
        path.rename(tmp_path / "web_app.log-20261126")
        if harm == "replaced":
            path.touch()
    log.info("after")
    assert [line.split(" | ", 2)[2] for line in lines(tmp_path)] == [
        "after",
        f"LOG_REOPENED | FILE=web_app.log | REASON={reason}",
    ]
    log.info("later")
    assert len(lines(tmp_path)) == 3


def test_a_file_that_was_cut_to_nothing_goes_on_from_its_beginning(
    open_logs: OpenLogs, tmp_path: Path
) -> None:
    open_logs()
    logging.getLogger("service").info("before")
    flush()
    os.truncate(tmp_path / "web_app.log", 0)
    logging.getLogger("service").info("after")
    assert [line.split(" | ")[2] for line in lines(tmp_path)] == ["after"]


@pytest.mark.skipif(shutil.which("logrotate") is None, reason="needs logrotate")
@pytest.mark.parametrize("way", ["create", "copytruncate", "nocreate\n  dateext"])
def test_logrotate_needs_no_signal(open_logs: OpenLogs, tmp_path: Path, way: str) -> None:
    run = tmp_path / "run"
    run.mkdir(mode=0o755)
    settings = tmp_path / "logrotate.conf"
    settings.write_text(f"{run}/web_app.log {{\n  size 1\n  rotate 3\n  {way}\n}}\n")
    settings.chmod(0o644)
    open_logs(run)
    for number in range(3):
        logging.getLogger("service").info("%d", number)
        flush()
        command = ["logrotate", "--force", "--state", str(tmp_path / "state"), str(settings)]
        if number == 0:
            subprocess.run(command, check=True)
    kept = "".join(path.read_text() for path in sorted(run.glob("web_app.log*"), reverse=True))
    assert [line.split(" | ")[2] for line in kept.splitlines() if " | LOG_" not in line][1:] == [
        "0",
        "1",
        "2",
    ]
    assert "| 2\n" in (run / "web_app.log").read_text()


def test_a_directory_that_turns_read_only_is_written_to_again_when_it_can_be(
    open_logs: OpenLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: io.StringIO
) -> None:
    open_logs()
    log = logging.getLogger("service")
    really = LogFile.emit
    flush()

    def refused(file: LogFile, record: logging.LogRecord) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(LogFile, "emit", refused)
    log.info("seen by the console alone")
    flush()
    assert (failing(), lost_lines()) == ("EROFS", 1)
    assert "seen by the console alone" in console.getvalue()
    monkeypatch.setattr(LogFile, "emit", really)
    log.info("after")
    assert lines(tmp_path)[-1].endswith("LOG_GAP | LOST=1")
    assert failing() is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_run_directory_that_may_not_be_written_is_refused_at_the_first_start_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: io.StringIO, number: int
) -> None:
    def refused(file: LogFile) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(LogFile, "open", refused)
    for must_write in (True, False):
        logs = Logs(tmp_path, max_bytes=1000, backups=1, console=console)
        if must_write and number != errno.ENOSPC:
            with pytest.raises(SettingsError) as caught:
                logs.open(must_write=True)
            assert caught.value.exit_code == 78
        else:
            logs.open(must_write=must_write)
            logs.close()
