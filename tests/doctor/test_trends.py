"""Trends, each beside a similar case that is no problem; and logs in every bad state."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from doctor import examine, read
from doctor.findings import SEVERITIES
from doctor.patterns import PATTERNS
from lab.instances.instance import ROOT
from tests.doctor.record import LOGS

START = 1_795_000_000.0


def stamp(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


def line(at: float, message: str, level: str = "INFO") -> str:
    return f"{stamp(at)} | {level:8} | {message}\n"


def answered(
    at: float, computed: float, *, waited: float = 0.0, chars: int = 20, size: tuple[int, int] = (640, 480)
) -> str:
    return _request(at, f"REQUEST_END | {{id}} | LABEL=Yes | SCORE=0.9 | DURATION={waited + computed:.2f}s | "
                    f"DEVICE=cpu | SOURCE=api | AHEAD=0 | WAITED={waited:.2f}s | COMPUTED={computed:.2f}s | "
                    "BATCH=1", chars, size)  # fmt: skip


def timed_out(at: float, *, waited: float, chars: int = 20, size: tuple[int, int] = (640, 480)) -> str:
    return _request(at, "REQUEST_ERROR | {id} | ERROR=DeadlineExceeded | MSG=No answer within 15 s. | "
                    "DURATION=15.00s | REASON=timeout | STAGE=computing | SOURCE=api | AHEAD=0 | "
                    f"WAITED={waited:.2f}s | COMPUTED={15 - waited:.2f}s | BATCH=1", chars, size)  # fmt: skip


def _request(at: float, end: str, chars: int, size: tuple[int, int]) -> str:
    name = f"req_{at:.0f}_{random.getrandbits(32):08x}"
    start = f"REQUEST_START | {name} | TEXT_LEN={chars} | IMG_SIZE={size} | SOURCE=api"
    return line(at, start) + line(at, end.format(id=name))


def vital(up: float, *, rss: float = 500, unix: float | None = None, pid: int = 7) -> str:
    set_clock = START + up if unix is None else unix
    return line(
        set_clock,
        f"VITALS | PID={pid} | UP={up:.0f}s | UNIX={set_clock:.0f} | RSS={rss * 2**20:.0f} | MEMORY=20% | "
        "DISK=40% | GPU=none | THREADS=9",
    )


LOADED = line(START, "MODEL_LOADING | MODEL=demo | ATTEMPT=1/3") + line(
    START, "MODEL_LOADED | DURATION=1.00s | ATTEMPT=1"
)


def codes(folder: Path, *parts: Iterable[str], restarts: str = "") -> list[str]:
    (folder / "web_app.log").write_text("".join("".join(part) for part in parts))
    if restarts:
        (folder / "restart.log").write_text(restarts)
    return [one.code for one in examine(folder)]


# ---- latency ---------------------------------------------------------------------------------------------


def test_a_drift_into_timeouts_is_still_a_drift(tmp_path: Path) -> None:
    fast = [answered(START + n, 3.0) for n in range(20)]
    slow = [timed_out(START + 100 + 20 * n, waited=0.0) for n in range(20)]
    assert codes(tmp_path, [LOADED], fast, slow) == ["latency-drift"]


@pytest.mark.parametrize(
    "after",
    [
        [answered(START + 100 + n, 0.1, waited=9.0) for n in range(20)],  # a crowd
        [answered(START + 100 + n, 8.0, chars=900) for n in range(20)],  # longer texts
        [answered(START + 100 + n, 8.0 if n % 2 else 0.1) for n in range(20)],  # now and then
        [answered(START + 100 + n, 0.9) for n in range(20)],  # a fast model on a busy machine
        [answered(START + 100 + n, 8.0) for n in range(4)],  # a moment
    ],
    ids=["crowd", "longer", "sometimes", "below a second", "few"],
)
def test_a_change_of_load_is_no_drift(after: list[str], tmp_path: Path) -> None:
    assert codes(tmp_path, [LOADED], [answered(START + n, 0.1) for n in range(20)], after) == []


def test_another_model_is_no_drift(tmp_path: Path) -> None:
    large = line(START + 90, "MODEL_LOADING | MODEL=large | ATTEMPT=1/3")
    small, slow = ([answered(START + t + n, s) for n in range(20)] for t, s in ((0, 0.1), (100, 6.0)))
    assert codes(tmp_path, [LOADED], small, [large], slow) == []


def test_timeouts_that_do_not_depend_on_size_are_no_cluster(tmp_path: Path) -> None:
    sizes = [(64, 64), (3000, 2000)]
    asked = [
        (timed_out(START + n, waited=0.0, size=sizes[n // 2 % 2], chars=20 + n // 2 % 2 * 900))
        if n % 2
        else answered(START + n, 1.0, size=sizes[n // 2 % 2], chars=20 + n // 2 % 2 * 900)
        for n in range(40)
    ]
    assert codes(tmp_path, [LOADED], asked) == []


def test_timeouts_in_the_queue_are_overload_whatever_their_size(tmp_path: Path) -> None:
    late = [timed_out(START + n, waited=14.0, size=(4000, 3000), chars=900) for n in range(10)]
    fast = [answered(START + 100 + n, 1.0) for n in range(10)]
    assert codes(tmp_path, [LOADED], late, fast) == ["overload"]


def test_a_client_over_its_share_is_no_overload(tmp_path: Path) -> None:
    busy = "REQUEST_ERROR | r | ERROR=CallerBusy | MSG=36 are waiting. | REASON=caller_limit | SOURCE=api"
    assert codes(tmp_path, [LOADED], [line(START + n, busy) for n in range(10)]) == ["caller-limit"]


def test_a_few_rejections_are_no_overload(tmp_path: Path) -> None:
    busy = "REQUEST_ERROR | r | ERROR=Busy | MSG=4 are waiting. | REASON=queue_full | SOURCE=api"
    lines = [line(START + 61 * n, busy) for n in range(30)]
    assert codes(tmp_path, [LOADED], lines) == []


def test_timeouts_that_only_slow_requests_log_still_has_count(tmp_path: Path) -> None:
    (tmp_path / "slow_requests.log").write_text(
        "".join(
            f"{START + n:.0f}\tTIMEOUT\t900 chars\treq_1_{n}\tcomputing\t15.00s\t640x480\tapi\n"
            for n in range(8)
        )
        + "cut\tTIMEOUT\n"
    )
    assert codes(tmp_path, [LOADED], [answered(START + 100 + n, 1.0) for n in range(9)]) == [
        "timeouts-long-text"
    ]


# ---- the process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rss",
    [
        lambda n: 500 + min(n, 10) * 30,  # caches that fill
        lambda n: 500 + 200 * (n % 2),  # up and down
        lambda n: 500 + 0.5 * n,  # next to nothing
        lambda n: 800 - 5 * n,
    ],
    ids=["levels off", "up and down", "little", "falls"],
)
def test_memory_that_does_not_keep_rising_is_no_leak(rss: object, tmp_path: Path) -> None:
    assert codes(tmp_path, [LOADED], [vital(60.0 * n, rss=rss(n)) for n in range(60)]) == []  # type: ignore[operator]


def test_a_rise_is_reported_only_after_some_minutes(tmp_path: Path) -> None:
    def rising(count: int) -> list[str]:
        return codes(tmp_path, [LOADED], [vital(30.0 * n, rss=500 + 20 * n) for n in range(count)])

    assert rising(16) == []
    assert rising(40) == ["memory-creep"]


def test_processes_are_not_added_up(tmp_path: Path) -> None:
    def life(number: int) -> list[str]:
        began = START + 1000 * number
        told = [vital(60.0 * n, rss=500 + 100 * number, pid=number, unix=began + 60 * n) for n in range(12)]
        return [LOADED, *told]

    assert codes(tmp_path, *map(life, range(5))) == []


@pytest.mark.parametrize("jump", [-7200, -10, 10, 7200])
def test_a_clock_that_is_set_is_reported_with_its_sign(jump: int, tmp_path: Path) -> None:
    lines = [vital(60.0 * n, unix=START + 60 * n + (jump if n > 10 else 0)) for n in range(20)]
    assert codes(tmp_path, [LOADED], lines) == ["clock-jump"]
    (finding,) = examine(tmp_path)
    assert f"moved by {jump:+d} s" in finding.text().diagnosis


def test_a_clock_that_is_slewed_has_not_jumped(tmp_path: Path) -> None:
    assert codes(tmp_path, [LOADED], [vital(60.0 * n, unix=START + 60.03 * n) for n in range(200)]) == []


def test_the_end_of_daylight_saving_time_is_no_jump(tmp_path: Path) -> None:
    """Stamps are local time; Unix times are compared."""
    lines = [vital(60.0 * n) for n in range(20)]
    moved = [one.replace(stamp(START + 60 * n), stamp(START + 60 * n - 3600)) for n, one in enumerate(lines)]
    assert codes(tmp_path, [LOADED], lines[:10], moved[10:]) == []


def test_a_pause_of_a_busy_machine_is_no_standstill_and_two_minutes_without_a_line_are(
    tmp_path: Path,
) -> None:
    def paused(seconds: float) -> list[str]:
        ups = [60.0 * n + (seconds if n > 10 else 0) for n in range(20)]
        return codes(tmp_path, [LOADED], [vital(up) for up in ups])

    assert paused(30) == []
    assert paused(180) == ["standstill"]


def test_lost_lines_are_a_log_gap_and_no_standstill(tmp_path: Path) -> None:
    before, after = ([vital(60.0 * n) for n in span] for span in (range(10), range(20, 30)))
    lost = line(START + 1200, "LOG_GAP | LOST=10", "WARNING")
    assert codes(tmp_path, [LOADED], before, after[:1], [lost], after[1:]) == ["log-gap"]


# ---- starts and exits ------------------------------------------------------------------------------------

#: A health API that listens, in the present form and in that of older logs; and an exit.
HEALTH = (
    "LISTENING | SERVER=health | URL=http://127.0.0.1:8000/health",
    "Health: http://127.0.0.1:8000/health",
)
EXIT = ("ENDED | CODE=0", "Ended.")


def alert(at: float, what: str) -> str:
    return f"{stamp(at)} [ALERT] {what}\n"


@pytest.mark.parametrize("n", [0, 1], ids=["now", "older"])
def test_a_logged_exit_between_two_starts_is_no_finding(n: int, tmp_path: Path) -> None:
    life = [line(START, HEALTH[n]), LOADED]
    assert codes(tmp_path, life, [line(START + 9, EXIT[n])], life) == []
    assert codes(tmp_path, life, life) == ["died-silently"]


def test_requested_restarts_are_no_finding(tmp_path: Path) -> None:
    asked = "".join(alert(START + n, "CAUSE=asked restarting process 7, as asked") for n in range(9))
    assert codes(tmp_path, [LOADED], restarts=asked) == []


def test_restarts_that_are_hours_apart_are_no_loop(tmp_path: Path) -> None:
    killed = "CAUSE=signal SIGNAL=9 restart 1 of 5: process 7 killed by signal 9 (SIGKILL); it ran 2 h"
    text = "".join(alert(START + 3600 * n, killed) for n in range(6))
    assert codes(tmp_path, [LOADED], restarts=text) == ["killed"]
    quick = "".join(alert(START + 60 * n, killed) for n in range(3))
    assert sorted(codes(tmp_path, [LOADED], restarts=quick)) == ["killed", "restart-loop"]


def test_a_resolved_problem_is_no_longer_critical(tmp_path: Path) -> None:
    failed = line(START, "MODEL_ATTEMPT_FAILED | ATTEMPT=1/3 | ERROR=HubUnavailable | MSG=x", "WARNING")
    assert codes(tmp_path, [failed]) == ["hub-unreachable"]
    assert [(one.severity, one.resolved) for one in examine(tmp_path)] == [("critical", False)]
    assert codes(tmp_path, [failed, LOADED]) == ["hub-unreachable"]
    assert [(one.severity, one.resolved) for one in examine(tmp_path)] == [("warning", True)]


# ---- the logs themselves ---------------------------------------------------------------------------------


def test_rotated_logs_are_read_from_the_oldest_on(tmp_path: Path) -> None:
    for name, at in (("web_app.log", 30), ("web_app.log.1", 20), ("web_app.log.2", 10)):
        (tmp_path / name).write_text(line(START + at, "Ended."))
    assert [one.at - START for one in read(tmp_path).app] == [10, 20, 30]


def test_of_a_large_log_the_newest_part_is_read(tmp_path: Path) -> None:
    (tmp_path / "web_app.log").write_text("".join(line(START + n, "Ended.") for n in range(1000)))
    read_lines = read(tmp_path, 500).app
    assert 5 < len(read_lines) < 20
    assert read_lines[-1].at == START + 999


@pytest.mark.parametrize("name", sorted(path.name for path in LOGS.iterdir()))
def test_damaged_logs_never_stop_the_doctor(name: str, tmp_path: Path) -> None:
    """Bytes flipped, cut and doubled: what was written whole after them is found all the same."""
    choose = random.Random(name)
    for path in (LOGS / name).iterdir():
        data = bytearray(path.read_bytes())
        for _ in range(len(data) // 50):
            data[choose.randrange(len(data))] = choose.randrange(256)
        (tmp_path / path.name).write_bytes(data[: choose.randrange(len(data) + 1)] + data[-100:])
    whole = line(START, "MODEL_ATTEMPT_FAILED | ATTEMPT=1/3 | ERROR=HubUnavailable | MSG=x", "WARNING")
    with (tmp_path / "web_app.log").open("a") as log:
        log.write("\n" + whole)
    found = examine(tmp_path)
    assert {"hub-unreachable"} <= {one.code for one in found} <= set(SEVERITIES)
    assert json.loads(json.dumps([one.as_dict() for one in found])), "programs can read every one of them"


@pytest.mark.parametrize("number", ["", "1x", "²", "-"])
def test_a_damaged_number_is_no_number(number: str, tmp_path: Path) -> None:
    request = _request(START, f"REQUEST_END | {{id}} | DURATION={number} | BATCH={number}", 20, (64, 64))
    damaged = request.replace("TEXT_LEN=20", f"TEXT_LEN={number}") + request.replace(
        "TEXT_LEN=20", f"TEXT_LEN=20 | PREMISE_LEN={number}"
    )
    assert codes(tmp_path, [damaged, line(START, f"LOG_GAP | LOST={number}")]) == ["log-gap"]


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "web_app.log").symlink_to("/proc/self/mem")  # which exists, and reads to nobody
    assert read(tmp_path).unreadable == ["web_app.log: OSError"]


def test_every_problem_can_be_found() -> None:
    source = "".join((ROOT / "doctor" / name).read_text() for name in ("trends.py", "live.py"))
    found = {one.code for one in PATTERNS} | {code for code in SEVERITIES if f'"{code}"' in source}
    assert found == set(SEVERITIES)
