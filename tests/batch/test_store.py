"""The store of served batches: what it keeps, counts, hides, repairs and forgets."""

from __future__ import annotations

import itertools
import json
import os
import resource
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch import folder
from batch.database import ASIDE, NAME
from batch.folder import Unusable
from batch.limits import CRASHES, DAY, DAYS_KEPT, DAYS_REMEMBERED, GROUP
from batch.records import Batch, Outcome, Picture, State
from batch.store import FAILED, WAITING, Store, crashed
from lab import ROOT
from tests.fakes import Clock

ANSWER = {"label": "Yes", "score": 0.9, "scores": {"Yes": 0.9, "No": 0.06, "Maybe": 0.04}, "reason": None}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    folder.prepare(tmp_path / "batches", Path("/nonexistent"))
    opened = Store(tmp_path / "batches", clock=clock)
    opened.open()
    yield opened
    opened.close()


def accept(
    store: Store, units: list[int], *, batch_id: str = "00" * 16, failed: int = 0, key: bytes | None = None
) -> Batch:
    """Accept a batch with a row for each of ``units``, of which the last ``failed`` cannot be judged."""
    number = store.begin(batch_id, owner="", caller="a", expires=store._clock() + DAYS_KEPT * DAY)
    states = [WAITING] * (len(units) - failed) + [FAILED] * failed
    rows = [
        (at + 1, unit, unit, at + 2, None, f"text {at}", None, json.dumps({"n": at}), state, None, None)
        for at, (unit, state) in enumerate(zip(units, states, strict=True))
    ]
    store.add(number, rows, [Picture(unit, f"{unit}.png", None, None) for unit in sorted(set(units))])
    assert store.accept(number, form="csv", format={"columns": ["n"]}, size=10, idempotency=key, digest=b"d")
    return found(store, batch_id)


def found(store: Store, batch_id: str = "00" * 16) -> Batch:
    batch = store.find(batch_id)
    assert batch is not None
    return batch


def answer(store: Store, batch: Batch, *positions: int) -> None:
    store.record([Outcome(batch.number, one, answer=ANSWER) for one in positions], [])


def test_rows_of_a_picture_are_judged_together_and_counted_once(store: Store) -> None:
    batch = accept(store, [0, 1, 0, 1])
    unit = store.next_unit(batch.number)
    assert unit is not None
    assert (unit.positions, unit.texts) == ([1, 3], ["text 0", "text 2"])
    other = store.next_unit(batch.number, [1, 3])
    assert other is not None
    assert other.positions == [2, 4]
    for _ in range(2):
        answer(store, batch, 1, 3)
    store.record([Outcome(batch.number, 1, code="error", error="later")], [])
    assert (found(store).done, found(store).failed, found(store).state) == (2, 0, State.RUNNING)
    answer(store, batch, 2, 4)
    assert (found(store).done, found(store).state) == (4, State.DONE)
    assert store.next_unit(batch.number) is None


def test_a_unit_has_a_largest_size(store: Store) -> None:
    unit = store.next_unit(accept(store, [0] * (GROUP + 5)).number)
    assert unit is not None
    assert len(unit.positions) == GROUP


def test_a_reader_that_goes_on_after_its_last_row_misses_none(store: Store) -> None:
    batch = accept(store, [0, 1, 0, 1, 2])
    answer(store, batch, 1, 3, 5)
    assert [one.position for one in store.results(found(store), 0, 99)] == [1]
    answer(store, batch, 2)
    assert [one.position for one in store.results(found(store), 1, 99)] == [2, 3]
    assert store.move(batch.number, State.CANCELLED)
    assert [one.position for one in store.results(found(store), 3, 99)] == [5]
    assert not store.move(batch.number, State.CANCELLED)


def test_large_results_are_read_a_few_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch.store.PAGE_BYTES", 40)  # a row has 20
    batch = accept(store, [0, 1, 2, 3, 4])
    answer(store, batch, 1, 2, 3, 4, 5)
    read: list[list[int]] = [[]]
    while page := store.results(found(store), max([0, *read[-1]]), 99):
        read.append([one.position for one in page])
    assert list(itertools.chain(*read)) == [1, 2, 3, 4, 5]
    assert max(map(len, read)) < 4


def test_a_result_after_the_cancellation_is_dropped(store: Store) -> None:
    batch = accept(store, [0])
    store.move(batch.number, State.CANCELLED)
    answer(store, batch, 1)
    assert (found(store).done, found(store).state) == (0, State.CANCELLED)


def test_a_crash_is_counted_in_advance_and_taken_back_by_any_outcome(store: Store) -> None:
    batch = accept(store, [0, 0])
    for crashes in range(CRASHES):
        unit = store.next_unit(batch.number)
        assert unit is not None
        assert (unit.crashes, crashed(unit)) == (crashes, [])
        store.record([], [unit])
    unit = store.next_unit(batch.number)
    assert unit is not None
    assert {(one.position, one.code) for one in crashed(unit)} == {(1, "crashed"), (2, "crashed")}
    store.record([Outcome(batch.number, 1)], [])
    unit = store.next_unit(batch.number)
    assert unit is not None
    assert (unit.positions, unit.crashes) == ([1], 0)


def test_a_second_timeout_is_the_last_and_its_row_is_alone(store: Store) -> None:
    batch = accept(store, [0, 0, 0])
    late = [Outcome(batch.number, one, code="timeout", error="late", may_pass=True) for one in (1, 2, 3)]
    store.record(late, [])
    assert found(store).failed == 0
    unit = store.next_unit(batch.number)
    assert unit is not None
    assert unit.positions == [1]
    store.record(late, [])
    assert (found(store).failed, found(store).state) == (3, State.DONE)
    assert {one.code for one in store.results(found(store), 0, 9)} == {"timeout"}


def test_a_list_without_a_row_to_judge_is_done(store: Store) -> None:
    batch = accept(store, [0, 0], failed=2)
    assert (batch.state, batch.failed) == (State.DONE, 2)


def test_an_idempotency_key_has_one_batch(store: Store) -> None:
    accept(store, [0], key=b"key")
    number = store.begin("11" * 16, owner="", caller="a", expires=1e9)
    assert not store.accept(number, form="csv", format={}, size=1, idempotency=b"key", digest=b"e")
    store.discard(number)
    assert store.find("11" * 16) is None
    known = store.by_idempotency(b"key")
    assert known is not None
    assert (known[0].id, known[1]) == ("00" * 16, b"d")


def test_an_expired_batch_leaves_only_its_id(store: Store, clock: Clock) -> None:
    batch = accept(store, [0, 1], key=b"key")
    answer(store, batch, 1)
    for path in (store.archive_of(batch.id), store.pictures_of(batch.id)):
        path.write_bytes(b"picture")
    store.keep_thumbnail(batch.number, 0, b"thumbnail")
    clock.move(DAYS_KEPT * DAY - 1)
    assert store.expire() == []
    clock.move(2)
    assert [one.id for one in store.expire()] == [batch.id]
    assert found(store).state is State.EXPIRED
    assert [path.name for path in store.folder.iterdir() if not path.name.startswith(NAME)] == []
    with store._database.reading() as sql:
        counts = [
            sql.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("rows", "pictures")
        ]
    assert counts == [0, 0]
    assert store.by_idempotency(b"key") is None
    assert store.held() == []
    clock.move(DAYS_REMEMBERED * DAY)
    store.expire()
    assert store.find(batch.id) is None


def test_everything_is_private(store: Store) -> None:
    accept(store, [0])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.folder.iterdir()}
    assert modes == {NAME: 0o600, f"{NAME}-wal": 0o600, f"{NAME}-shm": 0o600}
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


def test_what_an_interrupted_upload_left_is_dropped(tmp_path: Path, store: Store) -> None:
    batch = accept(store, [0])
    store.begin("22" * 16, owner="", caller="a", expires=1e9)
    store.archive_of(batch.id).write_bytes(b"kept")
    for name in ("22" * 16 + ".zip", "33" * 16 + ".part", "44" * 16 + ".pictures"):
        (store.folder / name).write_bytes(b"left")
    store.close()
    store.open()
    assert {
        path.name for path in store.folder.iterdir() if path.suffix in (".zip", ".part", ".pictures")
    } == {f"{batch.id}.zip"}
    assert store.find("22" * 16) is None


def damage(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + os.urandom(8000))


def foreign(path: Path) -> None:
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (a)")
    other.close()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])


@pytest.mark.parametrize("spoil", [damage, foreign, cut])
def test_a_damaged_or_foreign_file_is_moved_aside(tmp_path: Path, spoil: object) -> None:
    place = tmp_path / "batches"
    folder.prepare(place, Path("/nonexistent"))
    if spoil is not foreign:
        first = Store(place)
        first.open()
        accept(first, list(range(500)))
        first.close()
    for _ in range(2):
        spoil(place / NAME)  # type: ignore[operator]
        store = Store(place)
        store.open()
        assert store.active() == []
        accept(store, list(range(500)), batch_id="55" * 16)
        store.close()
        assert (place / ASIDE).exists()
    kept = {path.name for path in place.iterdir()}
    assert kept - {ASIDE, f"{ASIDE}-wal", f"{ASIDE}-shm"} == {NAME}


MOUNTS = """/dev/vda / ext4 rw 0 0
server:/export /srv/net nfs4 rw 0 0
//server/share /mnt/with\\040space cifs rw 0 0
user@host: /mnt/remote fuse.sshfs rw 0 0
overlay /srv/net/local overlay rw 0 0
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/srv/net/run", "nfs4"),
        ("/srv/network", "ext4"),
        ("/mnt/with space/run", "cifs"),
        ("/mnt/remote", "fuse.sshfs"),
        ("/srv/net/local/run", "overlay"),
    ],
)
def test_a_network_file_system_is_refused(tmp_path: Path, place: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert folder.filesystem(Path(place), mounts) == kind
    if kind in ("ext4", "overlay"):
        return
    with pytest.raises(Unusable) as refused:
        folder.prepare(Path(place), mounts)
    assert (refused.value.reason, refused.value.detail) == ("network", kind)


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "batches").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unusable) as refused:
        folder.prepare(tmp_path / "batches", Path("/nonexistent"))
    assert refused.value.reason == "folder"


def test_a_full_disk_changes_nothing_and_passes(store: Store) -> None:
    """The kernel refuses to grow a file beyond the limit, as a full disk does."""
    batch = accept(store, list(range(50)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(Unusable) as refused:
            answer(store, batch, *range(1, 51))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.reason == "disk_full"
    assert found(store).done == 0
    answer(store, batch, *range(1, 51))
    assert found(store).state is State.DONE


KILLED = """
import os, signal, sys
from pathlib import Path
from batch.records import Outcome
from batch.store import Store
store = Store(Path(sys.argv[1]))
store.open()
(batch,) = store.active()
store.record([Outcome(batch.number, 1, answer={"label": "Yes"})], [])
print(os.path.getsize(Path(sys.argv[1]) / "batches.sqlite-wal"), flush=True)
with store._database.writing() as sql:
    sql.execute("UPDATE rows SET state = 1")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_whole_transactions(store: Store) -> None:
    accept(store, [0, 1])
    store.close()
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(store.folder)], cwd=ROOT, capture_output=True, check=False
    )
    assert (ended.returncode, int(ended.stdout) > 0) == (-9, True)
    store.open()
    assert (found(store).done, [one.position for one in store.results(found(store), 0, 9)]) == (1, [1])
