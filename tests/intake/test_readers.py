"""Readers as real processes: hostile pictures, waiting, and termination."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from PIL import Image

from lab.faults.hostile_pictures import OK, SET, SLOW, large_png
from ofa.picture import File
from service.contract.errors import DeadlineExceeded
from service.intake.reader_process import START, ReaderProcess, command
from service.intake.readers import Readers
from tests.fakes import PATIENCE, until
from tests.reading import SMALL, Make, code_of, pids, read, saved
from tests.stand_in_reader import running

ROOT = Path(__file__).resolve().parents[2]
SHARE = 0.05  # of the largest hostile file: what takes minutes unbounded takes seconds


def prepared(before: str) -> Callable[[], ReaderProcess]:
    """Starts real readers that first run ``before``."""
    return lambda: running(START.replace("main()", f"import os, ofa.picture; {before}; main()"))


# ---- what a picture may cost -----------------------------------------------------------------------------


def test_hostile_pictures_are_refused_with_a_code_and_lose_no_reader(make_readers: Make) -> None:
    readers = make_readers(count=2)
    ended = {one.name: code_of(readers, one.make(SHARE)) for one in SET}
    assert {name: code for name, code in ended.items() if code not in codes_of(name)} == {}
    assert code_of(readers, SMALL) == OK
    until(lambda: readers.state().idle == 2)


def codes_of(name: str) -> tuple[str, ...]:
    return next(one.codes for one in SET if one.name == name)


def test_processor_time_is_limited_and_a_fresh_reader_takes_the_place(make_readers: Make) -> None:
    (slow,) = [one for one in SET if one.name == "odd_maximum.ppm"]
    readers = make_readers(count=1)
    assert code_of(readers, SMALL) == OK
    before = pids(readers)
    assert code_of(readers, slow.make(1)) == SLOW
    assert code_of(readers, SMALL) == OK
    assert not before & pids(readers)


def test_memory_is_limited_by_what_the_header_promised(make_readers: Make) -> None:
    """A reader that declares less memory than it needs is stopped at that limit and replaced."""
    readers = make_readers(count=1, make=prepared("ofa.picture.Header.memory = lambda self, side: 1 << 20"))
    assert code_of(readers, SMALL) == OK
    before = pids(readers)
    assert code_of(readers, large_png(6000)) == SLOW
    assert code_of(readers, SMALL) == OK
    assert not before & pids(readers)


def test_a_reader_gives_the_memory_of_a_large_picture_back(make_readers: Make) -> None:
    readers = make_readers(count=1)
    read(readers, SMALL)
    (reader,) = map(psutil.Process, pids(readers))
    before = reader.memory_info().rss
    read(readers, large_png(5000, colours=6))
    until(lambda: reader.memory_info().rss < before + (20 << 20))


def test_a_reader_that_crashes_is_replaced_and_the_picture_is_called_damaged(make_readers: Make) -> None:
    readers = make_readers(count=1, make=prepared("ofa.picture.read = lambda *_: os.abort()"))
    assert code_of(readers, SMALL) == "image_unreadable"
    until(lambda: readers.state().idle == 1)


# ---- odd tags --------------------------------------------------------------------------------------------


def exif(entries: list[tuple[int, int, int, bytes]]) -> bytes:
    at, packed, values = 10 + 12 * len(entries) + 4, b"", b""
    for tag, kind, count, value in sorted(entries):
        packed += struct.pack("<HHI", tag, kind, count)
        if len(value) <= 4:
            packed += value.ljust(4, b"\0")
        else:
            packed += struct.pack("<I", at + len(values))
            values += value
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4) + values


def test_a_turned_photograph_is_read_whatever_its_other_tags_hold(make_readers: Make) -> None:
    """Tags as cameras and editors write them, of every type, with values that fit it and that do not."""
    tags = [0x10F, 0x110, 0x11A, 0x128, 0x131, 0x132, 0x8298, 0x8769, 0x8825, 0xC4A5, 0x9C9B, 0x213, 0x102]
    tags += [0x111, 0x14A, 0x2BC, 0x83BB, 0x8773, 0xEA1C, 0xA005, 0x927C, 0x501B]
    values = [(1, b"\1\0\0\0"), (2, b"\1\2\3\4\5\6\7\x08" * 2), (0, b""), (5, b"ab\0\xff\xfe")]
    values += [(1, b"\xff\xff\xff\xff"), (1_000_000, b"\1\0\0\0")]
    turned = (0x112, 3, 1, struct.pack("<H", 6))
    odd = [(tag, kind, *value) for tag in tags for kind in range(19) for value in values]
    odd += [(0x11A, 5, 1, struct.pack("<II", 0, 0)), (0x9204, 10, 1, struct.pack("<ii", -1, 0))]
    photograph = saved(Image.new("RGB", (40, 30), (200, 0, 0)), "JPEG")
    readers = make_readers(count=1)
    assert len(odd) == 2510
    for tag in odd:
        segment = exif([turned, tag])
        data = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + photograph[2:]
        assert code_of(readers, data) == OK, tag


# ---- lives of processes ----------------------------------------------------------------------------------


def test_nothing_is_started_before_the_first_picture(make_readers: Make) -> None:
    readers = make_readers(count=2)
    assert pids(readers) == set()
    assert code_of(readers, SMALL) == OK
    until(lambda: readers.state().idle == 2)


def test_an_idle_reader_that_is_killed_is_replaced_without_failing_a_picture(make_readers: Make) -> None:
    readers = make_readers(count=1)
    assert code_of(readers, SMALL) == OK
    for _ in range(3):
        (pid,) = pids(readers)
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")
        assert code_of(readers, SMALL) == OK
        assert pid not in pids(readers)


def test_a_reader_that_survives_being_killed_is_counted_and_the_last_one_is_missed(
    make_readers: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    mortal = threading.Event()

    class Surviving(ReaderProcess):
        """Stands in for a process stuck in the kernel."""

        def kill(self) -> None:
            if mortal.is_set():
                super().kill()

    readers = make_readers(count=2, make=lambda: Surviving(command()), stuck_seconds=0.05)
    for left in (1, 0):
        with pytest.raises(DeadlineExceeded):
            file = File(0, lambda: stopped(readers))
            readers.read(file, side=8, max_pixels=99, deadline=time.monotonic() + 0.3)
        until(lambda left=left: readers.state().left == left)
    assert readers.state().stuck == 2
    assert caplog.text.count("READER_STUCK") == 2
    with pytest.raises(DeadlineExceeded):
        read(readers, SMALL, seconds=0.1)
    mortal.set()
    for pid in pids(readers):
        os.kill(pid, signal.SIGKILL)
    until(lambda: readers.state().stuck == 0)
    assert code_of(readers, SMALL) == OK
    assert caplog.text.count("READER_ENDED") == 2


def stopped(readers: Readers) -> bytes:
    """A picture that is never read, since its reader is stopped."""
    for pid in readers.pids()[1]:
        os.kill(pid, signal.SIGSTOP)
    return SMALL


def test_readers_that_cannot_be_started_are_missed_and_tried_again(
    make_readers: Make, caplog: pytest.LogCaptureFixture
) -> None:
    broken = True

    def start() -> ReaderProcess:
        if broken:
            raise OSError("no room")
        return ReaderProcess(command())

    readers = make_readers(count=2, make=start)
    with pytest.raises(DeadlineExceeded):
        read(readers, SMALL, seconds=0.2)
    assert readers.state().left == 0
    assert caplog.text.count("READER_NOT_STARTED") == 1
    broken = False
    assert code_of(readers, SMALL) == OK
    until(lambda: readers.state().left == 2)


def test_a_reader_that_cannot_start_does_not_blame_the_picture(make_readers: Make) -> None:
    readers = make_readers(count=1, make=lambda: ReaderProcess([sys.executable, "-c", "raise SystemExit(1)"]))
    with pytest.raises(DeadlineExceeded):
        read(readers, SMALL, seconds=0.5)
    assert readers.state().left == 0


def test_a_process_with_more_than_1024_files_reads_pictures(make_readers: Make) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        assert max(files) > 1024
        readers = make_readers(count=1)
        assert code_of(readers, SMALL) == OK
        readers.stop()
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_readers_are_humble(make_readers: Make) -> None:
    """Lower priority, first choice of the OOM killer, and discarded output."""
    readers = make_readers(count=1)
    read(readers, SMALL)
    (pid,) = pids(readers)
    folder = Path(f"/proc/{pid}")
    assert psutil.Process(pid).nice() > os.nice(0)
    assert (folder / "oom_score_adj").read_text().strip() == "1000"
    assert {os.readlink(folder / "fd" / fd) for fd in "12"} == {"/dev/null"}
    assert os.getpgid(pid) == pid, "a Ctrl-C is for the service"
    os.kill(pid, signal.SIGTERM)  # of a whole control group that is asked to stop
    assert code_of(readers, SMALL) == OK
    assert pids(readers) == {pid}


def test_a_reader_imports_neither_torch_nor_what_it_does_not_need() -> None:
    told = START.replace("main()", "print(*sorted(sys.modules))")
    argv = [told if part == START else part for part in command()]
    modules = set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())
    plugins = {name for name in modules if name.startswith("PIL.") and name.endswith("Plugin")}
    offered = ("Avif", "Bmp", "Gif", "Jpeg", "Png", "Ppm", "Tiff", "WebP")
    assert plugins == {f"PIL.{name}ImagePlugin" for name in offered}
    ours = {name for name in modules if name.startswith("service.")}
    assert ours == {"service.intake", "service.intake.reader_child"}
    assert not {"torch", "numpy", "gradio", "psutil"} & modules


KEPT = """
import sys, time
sys.path.insert(0, {root!r})
from ofa.picture import File
from service.intake.readers import Readers
from lab.faults.hostile_pictures import SET
(slow,) = [one for one in SET if one.name == "odd_maximum.ppm"]
readers = Readers(count=2)
def load():
    print(*sum(map(list, readers.pids()), []), flush=True)
    return slow.make(1)
try: readers.read(File(0, load), side=8, max_pixels=10**8, deadline=time.monotonic() + 60)
except Exception as error: print(repr(error), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_readers_end_with_their_parent_however_it_ends(number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KEPT.format(root=str(ROOT))], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        readers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert readers
        parent.send_signal(number)
        parent.wait(PATIENCE)
        until(lambda: not any(one.is_running() and one.status() != "zombie" for one in readers))


def test_two_threads_may_read_at_once_from_the_start(make_readers: Make) -> None:
    readers, codes = make_readers(count=2), []
    threads = [threading.Thread(target=lambda: codes.append(code_of(readers, SMALL))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert codes == [OK] * 6
