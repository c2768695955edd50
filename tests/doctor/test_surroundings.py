"""Findings about ports, variables, disks and logs in a bad state."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from doctor import examine, live, read
from doctor.findings import SEVERITIES
from health_api import Sidecar
from lab.instances.instance import ROOT
from service.listening import listen
from service.main import lock_run_dir
from tests.doctor.test_trends import EXIT, HEALTH, START, line
from tests.health.test_api import SERVING, Told


def codes(folder: Path) -> list[str]:
    return [one.code for one in examine(folder)]


# ---- a process that refuses to start ---------------------------------------------------------------------


def refused(folder: Path, *arguments: str, **variables: str) -> list[str]:
    """What the doctor finds where a real process with these settings wrote to its console and ended."""
    folder.mkdir(exist_ok=True)
    with (folder / "console.log").open("wb") as console:
        done = subprocess.run(
            [sys.executable, "web_app.py", "--model", "demo", *arguments],
            cwd=ROOT,
            env={**os.environ, "OFA_HOST": "127.0.0.1", "OFA_HEALTH_HOST": "127.0.0.1", **variables},
            stdout=console,
            stderr=console,
            timeout=120,
            check=False,
        )
    assert done.returncode != 0
    return codes(folder)


@pytest.mark.parametrize("flag", ["--port", "--health-port"])
def test_a_taken_port_is_found_whichever_it_is(tmp_path: Path, flag: str) -> None:
    other = {"--port": "--health-port", "--health-port": "--port"}[flag]
    with closing(listen("127.0.0.1", 0, flag)) as stranger:
        port = str(stranger.getsockname()[1])
        found = refused(tmp_path / "run", flag, port, other, "0", OFA_RUN_DIR=str(tmp_path / "run"))
    assert found == ["port-taken"]


def test_a_variable_set_by_kubernetes_is_an_invalid_setting(tmp_path: Path) -> None:
    assert refused(tmp_path, OFA_PORT="tcp://10.0.0.7:7860") == ["setting-refused"]


def test_a_run_directory_of_another_instance_is_found(tmp_path: Path) -> None:
    lock = lock_run_dir(tmp_path, must_write=True)
    assert lock is not None
    try:
        found = refused(tmp_path, "--port", "0", "--health-port", "0", OFA_RUN_DIR=str(tmp_path))
    finally:
        os.close(lock)
    assert found == ["two-instances"]


def test_a_run_directory_that_is_not_writable_is_found(tmp_path: Path) -> None:
    """No user can create folders in /sys."""
    ports = ("--port", "0", "--health-port", "0")
    (tmp_path / "console.log").touch()
    assert refused(tmp_path, *ports, OFA_RUN_DIR="/sys/ofa-run") == ["run-dir-unwritable"]


# ---- single lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("UPLOAD_REFUSED | REASON=no_room | FROM=127.0.0.1 | MORE=0", "uploads-no-room"),
        (
            "ENGINE_UNUSABLE | URL=http://127.0.0.1:1 | CODE=no_instance | CAUSE=ConnectError",
            "engine-unusable",
        ),
        (
            "ENGINE_ANSWER | STATUS=429 | CODE=rate_limit | MSG=The engine's limit is reached.",
            "engine-answers",
        ),
        ("ENGINE_KEY | OUTCOME=kept_old | MSG=it is larger", "engine-key-outdated"),
        ("BATCHES_OFF | REASON=network | DETAIL=nfs4", "batches-off"),
        ("BATCHES_PAUSED | REASON=disk_full", "batches-paused"),
        ("BATCHES_LOST | FOLDER=batches", "batches-moved-aside"),
        ("BATCHES_MOVED_ASIDE | REASON=foreign | FILE=damaged.sqlite", "batches-moved-aside"),
        ("BATCH_ROW_CRASHED | BATCH=00ab12cd | ROWS=2", "batch-row-crashed"),
        ("DESCRIPTORS | PORT=page | OPEN=512 | LIMIT=1024", "descriptors-exhausted"),
        ("LOG_REOPENED | FILE=web_app.log | REASON=moved", "log-moved"),
        ("CONVERTED_WEIGHTS_NOT_KEPT | ERROR=ENOSPC", "converted-not-kept"),
        ("CALIBRATION | OUTCOME=ignored | REASON=other_weights | MSG=words", "calibration-ignored"),
        ("FILES_DAMAGED | FILES=pytorch_model.bin", "file-damaged"),
        ("BROKEN | MSG=a thread died | THREAD=converter | ERROR=KeyError", "unforeseen"),
    ],
)
def test_a_line_is_a_finding(tmp_path: Path, message: str, code: str) -> None:
    (tmp_path / "web_app.log").write_text(line(START, message))
    assert codes(tmp_path) == [code]


@pytest.mark.parametrize(
    "message",
    [
        "UPLOAD_REFUSED | REASON=share | FROM=127.0.0.1 | MORE=0",
        "SETTLED | DURATION=0.10s",
        "BATCHES_ON | ACTIVE=1 | WAITING=7",
        "CALIBRATION | OUTCOME=used | TEMPERATURE=1.5 | ACCEPT=0.9 | REVIEW=0.6",
        "LIBRARY | LOGGER=waitress.queue | AT=task.py:110",
        "STARTED | PID=7",
    ],
)
def test_a_similar_line_is_no_finding(tmp_path: Path, message: str) -> None:
    (tmp_path / "web_app.log").write_text(line(START, message))
    assert codes(tmp_path) == []


# ---- processes and rotated logs --------------------------------------------------------------------------


def test_a_process_that_died_before_its_health_api_answered_died_silently_too(tmp_path: Path) -> None:
    first, second = line(START, "STARTED | PID=7"), line(START + 60, "STARTED | PID=8")
    (tmp_path / "web_app.log").write_text(first + second)
    assert codes(tmp_path) == ["died-silently"]
    for end in EXIT:
        (tmp_path / "web_app.log").write_text(first + line(START + 50, end) + second)
        assert codes(tmp_path) == []


@pytest.mark.parametrize(
    ("names", "newest"),
    [
        (["web_app.log.2", "web_app.log.1"], "web_app.log.1"),
        (["web_app.log.2.gz", "web_app.log.1"], "web_app.log.1"),
        (["web_app.log-20261124.gz", "web_app.log-20261125"], "web_app.log-20261125"),
    ],
)
def test_logs_that_logrotate_moved_are_read_in_their_order(
    tmp_path: Path, names: list[str], newest: str
) -> None:
    for number, name in enumerate([*names, "web_app.log"]):
        text = line(START + number, f"NUMBER | {number}").encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    (tmp_path / "web_app.log.notes").write_text(line(START, "NOT | OURS"))
    assert [one.message for one in read(tmp_path).app] == ["NUMBER | 0", "NUMBER | 1", "NUMBER | 2"]
    assert read(tmp_path).app[1].file == newest


def test_a_damaged_archive_is_listed_and_the_rest_read(tmp_path: Path) -> None:
    packed = gzip.compress(line(START, "OLD | 1").encode() * 100)
    (tmp_path / "web_app.log.1.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "web_app.log").write_text(line(START, "NEW | 1"))
    records = read(tmp_path)
    assert [one.message for one in records.app] == ["NEW | 1"]
    assert records.unreadable == ["web_app.log.1.gz: EOFError"]


# ---- endpoints -------------------------------------------------------------------------------------------


def test_an_instance_that_cannot_log_is_found_by_web_app_pid(tmp_path: Path) -> None:
    """The newest address in the log is that of an earlier run."""
    with closing(listen("127.0.0.1", 0, "--health-port")) as another:
        (tmp_path / "web_app.log").write_text(
            line(START, f"Health: http://127.0.0.1:{another.getsockname()[1]}/health")
        )
        application = Told(SERVING)
        report = application.report
        application.report = lambda: replace(  # type: ignore[method-assign]
            report(), more={**report().more, "log_failing": "EROFS", "log_lines_lost": 3}
        )
        sidecar = Sidecar(application, listen("127.0.0.1", 0, "--health-port"))
        sidecar.start()
        try:
            (tmp_path / "web_app.pid").write_text(
                f"{os.getpid()}\nstarttime=1 boot=1\nhealth=http://127.0.0.1:{sidecar.port}\n"
            )
            (finding,) = live.check(read(tmp_path))
        finally:
            sidecar.stop()
    assert (finding.code, finding.severity) == ("log-failing", "warning")
    assert "EROFS" in finding.text().diagnosis


@pytest.mark.parametrize("rubbish", ["", "\n", "one two", "-7\n", "\x00\xff"])
def test_a_damaged_pid_file_names_no_process(tmp_path: Path, rubbish: str) -> None:
    (tmp_path / "web_app.log").write_text(line(START, HEALTH[0]))
    (tmp_path / "web_app.pid").write_text(rubbish)
    assert list(live.check(read(tmp_path))) == []


def test_a_pipe_as_pid_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "web_app.pid")
    assert not live.runs(tmp_path)
    (tmp_path / "web_app.pid").unlink()
    with socket.socket(socket.AF_UNIX) as strange:
        strange.bind(str(tmp_path / "web_app.pid"))
        assert not live.runs(tmp_path)


def test_only_harmless_problems_are_of_severity_info() -> None:
    assert {code for code, severity in SEVERITIES.items() if severity == "info"} == {
        "caller-limit",
        "converted-not-kept",
        "log-moved",
    }
