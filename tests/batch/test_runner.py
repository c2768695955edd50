"""The runner of served batches: order, fairness, retries, cancellation, pauses, over a fake model."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from batch.folder import Unusable
from batch.limits import CRASHES
from batch.records import State
from service.contract.causes import ApiCode, BatchCode
from service.contract.errors import DeviceLost, InferenceError, OutOfMemory, ServiceError
from service.contract.protocols import CancelPoint
from service.contract.request import Pair
from tests.applications import Build, Hub
from tests.batch.served import finished, pairs, png, serving, upload, zipped
from tests.fakes import YES, Clock, FakePredictor, until


class Recorder:
    """A model that notes what it is asked, and may be held."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def __call__(self, asked: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        self.entered.set()
        while not self.open.wait(0.001):
            cancel_point()
        cancel_point()
        self.batches.append([pair.hypothesis for pair in asked])
        return [YES for _ in asked]

    @property
    def texts(self) -> list[str]:
        return [text for batch in self.batches for text in batch if text != "a photo"]


def loaded(make: Build, behave: Any, **settings: Any) -> Any:
    application = make(FakePredictor(behave), **settings)
    application.supervisor.load()
    application.supervisor.start()
    return application


def test_rows_are_judged_once_by_picture_and_answered_in_the_order_of_the_list(
    make: Build, tmp_path: Path
) -> None:
    model = Recorder()
    with serving(loaded(make, model), tmp_path) as batches:
        results = finished(batches, upload(batches, zipped(pairs(5, 8))))
    assert [one.position for one in results] == list(range(1, 41))
    assert [(one.image, one.text) for one in results] == pairs(5, 8)
    assert all(one.answer and one.answer["label"] == "Yes" for one in results)
    assert Counter(model.texts) == Counter(text for _, text in pairs(5, 8))
    assert all(
        len({text.split()[-1] for text in batch}) == 1 for batch in model.batches if batch != ["a photo"]
    )


def test_callers_are_served_in_turn(make: Build, tmp_path: Path) -> None:
    model = Recorder()
    model.open.clear()
    with serving(loaded(make, model, max_batch=1), tmp_path, max_batch=1) as batches:
        first = upload(batches, zipped([(f"{n}.png", "first") for n in range(20)]), caller="192.0.2.1")
        assert model.entered.wait(60)
        second = upload(batches, zipped([(f"{n}.png", "second") for n in range(20)]), caller="192.0.2.2")
        model.open.set()
        finished(batches, first)
        finished(batches, second)
    assert model.texts[:8].count("second") >= 2  # at most two were submitted before
    assert abs(model.texts[:20].count("first") - 10) <= 3


def test_a_row_that_cannot_be_judged_fails_alone(make: Build, tmp_path: Path) -> None:
    rows = [
        *(
            ("1.png", "fine"),
            ("broken.png", "a"),
            ("/etc/passwd", "b"),
            ("../2.png", "c"),
            ("file:///etc/passwd", "d"),
        ),
        *(("http://a.example/x.png", "e"), ("none.png", "f"), ("1.png", "x" * 2000), ("1.png", "")),
        ("2.png", "fine too"),
    ]
    with serving(loaded(make, None), tmp_path) as batches:
        batch = upload(batches, zipped(rows, {"broken.png": b"nothing"}))
        results = finished(batches, batch)
        state = batches.status(batch.id, "")
    codes = [one.code for one in results]
    assert codes == [
        *(None, "not_an_image", "image_elsewhere", "image_elsewhere", "image_elsewhere", "image_elsewhere"),
        *("no_image", "text_too_long", "no_text", None),
    ]
    assert all(one.error for one in results if one.code)
    assert (state["state"], state["rows"]) == ("done", {"total": 10, "done": 2, "failed": 8})


def test_without_a_zip_only_data_urls_are_pictures(make: Build, tmp_path: Path) -> None:
    import base64

    url = "data:image/png;base64," + base64.b64encode(png(7)).decode()
    lines = ["image;text", f'"{url}";one', f'" {url} ";two', "/etc/hostname;three", "http://a.example/b;four"]
    with serving(loaded(make, None), tmp_path) as batches:
        batch = upload(batches, "\n".join(lines).encode(), "list.csv")
        results = finished(batches, batch)
        kept = {path.suffix for path in (tmp_path / "batches").iterdir() if path.stem == batch.id}
    assert [one.code for one in results] == [None, None, "image_elsewhere", "image_elsewhere"]
    assert [one.image for one in results[:2]] == ["data:image/png;base64"] * 2
    assert [one.fields["image"] for one in results[:2]] == ["data:image/png;base64"] * 2
    assert kept == {".pictures"}


def test_a_cancelled_batch_stops_within_a_row_and_keeps_its_results(make: Build, tmp_path: Path) -> None:
    model = Recorder()
    with serving(loaded(make, model, max_batch=1), tmp_path, max_batch=1) as batches:
        batch = upload(batches, zipped(pairs(30, 1)))
        until(lambda: batches.find(batch.id, "").done >= 3)
        model.open.clear()
        model.entered.clear()
        assert model.entered.wait(60)
        batches.cancel(batch.id, "")
        until(lambda: not batches._runner._flights)  # the held computation was left at its cancel point
        known = batches.find(batch.id, "")
        assert (known.state, known.left) == (State.CANCELLED, 0)
        assert len(batches.results(known, 0, 99)) == known.done < 30
        model.open.set()
        judged = len(model.texts)
        finished(batches, upload(batches, zipped([("1.png", "another")])))
        assert model.texts[judged:] == ["another"]


def test_a_batch_waits_for_the_model(make: Build, tmp_path: Path) -> None:
    application = make(FakePredictor(), hub=Hub())
    with serving(application, tmp_path) as batches:
        batch = upload(batches, zipped(pairs(2, 2)))
        time.sleep(0.1)
        assert batches.status(batch.id, "")["state"] == "queued"
        assert batches.status(batch.id, "")["seconds_left"] is None
        application.supervisor.load()
        application.supervisor.start()
        assert len(finished(batches, batch)) == 4


def test_a_row_that_times_out_twice_fails(make: Build, tmp_path: Path) -> None:
    asked: Counter[str] = Counter()

    def behave(pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        for pair in pairs:
            asked[pair.hypothesis] += 1
        while any("slow" in pair.hypothesis for pair in pairs):
            cancel_point()
            time.sleep(0.001)
        return [YES for _ in pairs]

    application = loaded(make, behave, timeout=1.0, max_batch=1)
    with serving(application, tmp_path, timeout=1.0, max_batch=1) as batches:
        until(lambda: application.snapshot().reading.idle > 0)
        results = finished(
            batches, upload(batches, zipped([("1.png", "slow"), ("1.png", "fast"), ("2.png", "also")]))
        )
    assert [one.code for one in results] == ["timeout", None, None]
    assert asked["slow"] == 2


def test_an_error_of_the_model_fails_the_row(make: Build, tmp_path: Path) -> None:
    def behave(pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        if any("bad" in pair.hypothesis for pair in pairs):
            raise InferenceError("This one failed.")
        return [YES for _ in pairs]

    with serving(loaded(make, behave), tmp_path) as batches:
        results = finished(
            batches, upload(batches, zipped([("1.png", "bad"), ("1.png", "good"), ("2.png", "good")]))
        )
    assert [(one.code, one.error) for one in results] == [
        ("error", "This one failed."),
        (None, None),
        (None, None),
    ]


def test_a_row_for_which_memory_was_short_is_judged_again_once(make: Build, tmp_path: Path) -> None:
    asked: Counter[str] = Counter()

    def behave(pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        asked.update(pair.hypothesis for pair in pairs)
        if any(pair.hypothesis == "always" or asked["once"] == 1 for pair in pairs):
            raise OutOfMemory("The GPU's memory is full.")
        return [YES for _ in pairs]

    with serving(loaded(make, behave, max_batch=1), tmp_path, max_batch=1) as batches:
        results = finished(batches, upload(batches, zipped([("1.png", "once"), ("2.png", "always")])))
    assert [one.code for one in results] == [None, "error"]
    assert (asked["once"], asked["always"]) == (2, 2)


def test_a_lost_device_is_one_crash(make: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        if pairs[0].hypothesis == "a photo":
            return [YES for _ in pairs]
        raise DeviceLost("The GPU is gone.")

    application = loaded(make, lost)
    fatal = threading.Event()
    monkeypatch.setattr(application._engine._computation, "_on_fatal", lambda error: fatal.wait(1))
    with serving(application, tmp_path) as batches:
        batch = upload(batches, zipped([("1.png", "text")]))
        until(lambda: application.snapshot().activity.counts.get("error", 0) > 0)
        fatal.wait(0.2)  # the runner knows it now, the lifecycle does not yet
        unit = batches._store.next_unit(batch.number)
        fatal.set()
    assert unit is not None
    assert unit.crashes == 1


def test_no_more_rows_are_submitted_than_the_lane_has_room_for(make: Build, tmp_path: Path) -> None:
    model = Recorder()
    application = loaded(make, model, max_batch=128)
    model.open.clear()
    with serving(application, tmp_path, max_batch=128) as batches:
        batch = upload(batches, zipped([("1.png", f"text {n}") for n in range(600)]))
        until(lambda: len(batches._runner._flights) >= 3)
        until(lambda: application.snapshot().activity.background >= 64)
        model.open.set()
        finished(batches, batch)
    assert application.snapshot().activity.counts.get("rejected", 0) == 0


def test_an_interactive_request_is_answered_while_a_batch_waits(make: Build, tmp_path: Path) -> None:
    model = Recorder()
    application = loaded(make, model, max_batch=1)
    with serving(application, tmp_path, max_batch=1) as batches:
        batch = upload(batches, zipped(pairs(60, 1)))
        until(lambda: batches.find(batch.id, "").done >= 2)
        verdict = application.submit(png(9), "interactive", caller="192.0.2.9").result(60)
        done = batches.find(batch.id, "").done
        assert (verdict.reason, done < 60) == (None, True)
        assert len(finished(batches, batch)) == 60
    assert model.texts.count("interactive") == 1


def test_rows_with_which_the_process_ended_are_judged_alone_and_fail_at_last(
    make: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A crash is a runner that never writes an outcome: what a kill leaves in the store."""
    model = Recorder()
    application = loaded(make, model, max_batch=4)
    with serving(application, tmp_path, max_batch=4) as batches:
        model.open.clear()
        batch = upload(batches, zipped(pairs(12, 1)))
        until(lambda: len(batches._runner._flights) >= 8)
        suspects = sorted(p for flight in batches._runner._flights for p in flight.unit.positions)
    with serving(application, tmp_path, max_batch=4) as batches:  # an orderly stop is no crash
        until(lambda: len(batches._runner._flights) >= 8)
        assert all(flight.unit.crashes == 0 for flight in batches._runner._flights)
    batches._store.open()
    with batches._store._database.writing() as sql:
        sql.execute("UPDATE rows SET crashes = ? WHERE position = 1", [CRASHES])
        sql.execute("UPDATE rows SET crashes = 1 WHERE position IN (2, 3)")
    batches._store.close()
    model.batches.clear()
    model.open.set()
    caplog.set_level(logging.INFO, "batch")
    with serving(application, tmp_path, max_batch=4) as batches:
        results = finished(batches, batch)
    assert suspects[:3] == [1, 2, 3]
    assert [one.code for one in results] == ["crashed", *[None] * 11]
    assert model.texts[:2] == ["text 0 of 1", "text 0 of 2"]
    assert "BATCH_ROW_CRASHED | BATCH=" in caplog.text
    assert batch.id not in caplog.text


def test_a_full_disk_pauses_and_nothing_is_judged_twice(
    make: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("batch.runner.PAUSE_SECONDS", 0.02)
    caplog.set_level(logging.INFO, "batch")
    model, full, reasons = Recorder(), threading.Event(), ["disk_full"]
    with serving(loaded(make, model), tmp_path) as batches:
        record = batches._store.record

        def fail(*arguments: Any) -> None:
            if full.is_set():
                raise Unusable(reasons[-1], "SQLITE")
            record(*arguments)

        monkeypatch.setattr(batches._store, "record", fail)
        monkeypatch.setattr("batch.uploads.room", lambda folder: 0 if full.is_set() else 1 << 40)
        batch = upload(batches, zipped(pairs(40, 1)))
        until(lambda: batches.find(batch.id, "").done >= 5)
        full.set()
        until(lambda: "BATCHES_PAUSED | REASON=disk_full | DETAIL=SQLITE" in caplog.text)
        reasons.append("error")
        until(lambda: "BATCHES_PAUSED | REASON=error" in caplog.text)
        with pytest.raises(ServiceError) as refused:
            upload(batches, zipped(pairs(1, 1)))
        assert refused.value.code == ApiCode.NO_ROOM
        full.clear()
        assert [one.code for one in finished(batches, batch)] == [None] * 40
    assert "BATCHES_RESUMED" in caplog.text
    assert Counter(model.texts) == Counter(text for _, text in pairs(40, 1))


def test_on_a_network_file_system_batches_are_off(
    make: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from batch.batches import Batches
    from service.settings import Settings

    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/export {tmp_path} nfs4 rw 0 0\n")
    batches = Batches(make(), Settings(run_dir=tmp_path), mounts=mounts)
    batches.start()
    assert batches.alive
    with pytest.raises(ServiceError) as refused:
        upload(batches, b"x")
    batches.stop()
    assert refused.value.code == BatchCode.BATCHES_OFF
    assert "BATCHES_OFF | REASON=network | DETAIL=nfs4" in caplog.text
    assert not (tmp_path / "batches").exists()


@pytest.mark.parametrize("away", ["folder", "file"])
def test_a_store_that_is_deleted_is_made_again(
    away: str, make: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite would go on in the deleted file without an error, and every batch would end with the process."""
    with serving(loaded(make, Recorder()), tmp_path) as batches:
        lost = upload(batches, zipped(pairs(1, 1)))
        finished(batches, lost)
        if away == "folder":
            shutil.rmtree(tmp_path / "batches")
        else:
            (tmp_path / "batches" / "batches.sqlite").unlink()
        until(lambda: (tmp_path / "batches" / "batches.sqlite").exists())
        until(lambda: batches.off is None)
        assert "BATCHES_LOST | FOLDER=batches" in caplog.text
        with pytest.raises(ServiceError) as refused:
            batches.find(lost.id, "")
        assert refused.value.code == ApiCode.NOT_FOUND
        assert len(finished(batches, upload(batches, zipped(pairs(2, 1))))) == 2


def test_limits_of_a_caller(make: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch.uploads.CALLER_BATCHES", 2)
    monkeypatch.setattr("batch.uploads.BATCH_BYTES", 5000)
    monkeypatch.setattr("batch.accepting.ROWS", 30)

    def code(action: Callable[[], object]) -> str:
        with pytest.raises(ServiceError) as refused:
            action()
        return str(refused.value.code)

    with serving(make(), tmp_path) as batches:
        assert code(lambda: upload(batches, bytes(5001))) == "too_large"
        assert code(lambda: upload(batches, b"image,text\n" + b"a,b\n" * 31, "list.csv")) == "list_too_large"
        for _ in range(2):
            upload(batches, zipped(pairs(1, 1)))
        assert code(lambda: upload(batches, zipped(pairs(1, 1)))) == "batch_limit"
        upload(batches, zipped(pairs(1, 1)), caller="192.0.2.2")
        monkeypatch.setattr("batch.uploads.TOTAL_BYTES", 100)
        assert code(lambda: upload(batches, zipped(pairs(1, 1)), caller="192.0.2.3")) == "no_room"
        assert not list((tmp_path / "batches").glob("*.part"))
        assert len(batches._store.held()) == 3


def test_a_repeated_upload_is_returned_to_a_caller_at_its_limit(
    make: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.uploads.CALLER_BATCHES", 1)
    with serving(make(), tmp_path) as batches:
        content = zipped(pairs(1, 1))  # once, as a zip has the time in it
        first = upload(batches, content, idempotency="one")
        assert upload(batches, content, idempotency="one").id == first.id
        with pytest.raises(ServiceError) as refused:
            upload(batches, content, idempotency="two")
    assert refused.value.code == BatchCode.BATCH_LIMIT


def test_a_list_leaves_the_reserve_of_the_disk(
    make: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.accepting.room", lambda folder: 0)
    with serving(make(), tmp_path) as batches:
        with pytest.raises(ServiceError) as refused:
            upload(batches, zipped(pairs(1, 1)))
        assert batches._store.held() == []
    assert refused.value.code == ApiCode.NO_ROOM
    assert {path.suffix for path in (tmp_path / "batches").iterdir()} == {".sqlite"}


def test_an_expired_batch_is_gone_and_known(
    make: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.runner.SWEEP_SECONDS", 0.0)
    clock = Clock(1_800_000_000.0)
    with serving(loaded(make, None), tmp_path, clock=clock) as batches:
        batch = upload(batches, zipped(pairs(2, 1)))
        finished(batches, batch)
        assert batches.thumbnail(batch.id, "", 1)
        clock.move(7 * 86_400 + 1)
        batches._runner.wake()
        until(lambda: not (tmp_path / "batches" / f"{batch.id}.zip").exists())

        def code() -> str:
            try:
                return str(batches.find(batch.id, "").state)
            except ServiceError as error:
                return str(error.code)

        until(lambda: code() == "expired")
        with pytest.raises(ServiceError) as refused:
            batches.results(batch, 0, 10)
        assert refused.value.code == BatchCode.EXPIRED  # a reader does not take what is left for the whole
        clock.move(30 * 86_400)
        batches._runner.wake()
        until(lambda: code() == "not_found")
