"""/v1/batches over HTTP: the contract of each call, owners, keys, formats, hostile files."""

from __future__ import annotations

import csv
import http.client
import io
import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import pytest
from PIL import Image

from api.app import ApiSite
from api.batches import IMPORTING
from batch.accepting import Accepted, add_rows
from batch.batches import Batches
from batch.limits import BATCH_BYTES
from service import api_keys
from service.api_keys import ApiKeys
from service.application import Application
from service.contract.calibration import Calibration
from service.contract.status import CalibrationState
from service.front import Front
from service.http.identity import Identity
from service.listening import Connections, listen, page_limits
from service.settings import Settings
from tests.api.serving import client, code
from tests.applications import Build
from tests.batch.served import NO_MOUNTS, pairs, png, zipped
from tests.fakes import PATIENCE, Clock, FakePredictor, until


@contextmanager
def serving(
    application: Application, run_dir: Path, *, clock: Callable[[], float] = time.time, **more: Any
) -> Iterator[Front]:
    """Serve the API with batches inside the context."""
    settings = Settings(run_dir=run_dir, **more.pop("settings", {}))
    batches = Batches(application, settings, mounts=more.pop("mounts", NO_MOUNTS), clock=clock)
    front = Front(
        {"": ApiSite(application, settings, more.pop("identity", None), batches)},
        listen("127.0.0.1", 0, "--port"),
        Connections("page", page_limits()),
        workers=[batches],
    )
    try:
        front.start()
        yield front
    finally:
        front.stop_workers()
        front.stop()


@pytest.fixture
def application(make: Build) -> Application:
    made = make(FakePredictor())
    made.supervisor.load()
    made.supervisor.start()
    return made


@pytest.fixture
def api(application: Application, tmp_path: Path) -> Iterator[httpx.Client]:
    with serving(application, tmp_path) as front, client(front) as one:
        yield one


def post(api: httpx.Client, content: bytes, name: str = "list.zip", **headers: str) -> httpx.Response:
    return api.post("/v1/batches", files={"file": (name, content)}, headers=headers)


def done(api: httpx.Client, location: str, **headers: str) -> dict[str, Any]:
    """Wait for the end of a batch and return its state."""
    until(lambda: api.get(location, headers=headers).json()["state"] not in ("queued", "running"))
    return dict(api.get(location, headers=headers).json())


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_batch_from_the_upload_to_its_results(api: httpx.Client) -> None:
    accepted = post(api, zipped(pairs(3, 2)))
    assert accepted.status_code == 202
    location = accepted.headers["location"]
    assert location == f"/v1/batches/{accepted.json()['id']}"
    state = done(api, location)
    assert (state["state"], state["rows"]) == ("done", {"total": 6, "done": 6, "failed": 0})
    assert state["expires"] - state["created"] == 7 * 86_400
    assert (state["seconds_left"], state["form"], state["columns"]) == (0.0, "csv", ["image", "text"])
    answer = api.get(f"{location}/results")
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    listed = lines(answer)
    assert [(one["row"], one["line"], one["image"], one["text"]) for one in listed] == [
        (at, at + 1, image, text) for at, (image, text) in enumerate(pairs(3, 2), 1)
    ]
    assert listed[0]["scores"] == {"Yes": 0.9, "No": 0.06, "Maybe": 0.04}
    assert (listed[0]["label"], listed[0]["reason"], "code" in listed[0]) == ("Yes", None, False)
    assert [one["row"] for one in lines(api.get(f"{location}/results?after=4"))] == [5, 6]
    table = api.get(f"{location}/results?format=csv")
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [(row["image"], row["label"], row["error"]) for row in rows[:2]] == [
        ("0.png", "Yes", ""),
        ("1.png", "Yes", ""),
    ]
    thumbnail = api.get(f"{location}/pictures/2")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(thumbnail.content)).size == (96, 72)
    assert api.get(f"{location}/pictures/2").content == thumbnail.content
    for missing in ("0", "7", "x", "-1"):
        assert code(api.get(f"{location}/pictures/{missing}")) == (404, "not_found")
    for wrong in ("format=xml", "after=x", "after=-1"):
        assert code(api.get(f"{location}/results?{wrong}")) == (422, "invalid_field")


def test_a_list_without_a_form_and_with_named_columns(api: httpx.Client) -> None:
    content = b"a,b\nx.png,one\n"
    raw = api.post("/v1/batches", content=b"image,text\nx.png,one\n", headers={"content-type": "text/csv"})
    named = api.post(
        "/v1/batches",
        files={"file": ("list.csv", content)},
        data={"image_column": "a", "text_column": "b"},
    )
    for accepted in (raw, named):
        assert accepted.status_code == 202
        (row,) = lines(api.get(accepted.headers["location"] + "/results"))
        assert (row["code"], row["reason"], row["label"], row["text"]) == (
            "image_elsewhere",
            "invalid",
            None,
            "one",
        )
    assert code(post(api, content, "list.csv")) == (422, "column_missing")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("list.csv", b"", (422, "list_empty")),
        ("list.doc", b"x", (422, "list_form")),
        ("list.zip", b"PK\3\4nothing", (422, "archive_unreadable")),
        ("list.csv", b"image,text\n" + b"a,b\n" * 20_001, (413, "list_too_large")),
    ],
)
def test_a_list_that_is_none_is_refused(
    api: httpx.Client, tmp_path: Path, name: str, content: bytes, expected: tuple[int, str]
) -> None:
    assert code(post(api, content, name)) == expected
    assert not [
        path for path in (tmp_path / "batches").iterdir() if path.suffix in (".zip", ".part", ".pictures")
    ]


def hostile(change: Callable[[zipfile.ZipFile], None]) -> bytes:
    file = io.BytesIO(zipped(pairs(1, 1)))
    with zipfile.ZipFile(file, "a") as archive:
        change(archive)
    return file.getvalue()


def link(archive: zipfile.ZipFile) -> None:
    member = zipfile.ZipInfo("a.png")
    member.external_attr = 0o120777 << 16
    archive.writestr(member, "/etc/passwd")


@pytest.mark.parametrize(
    "content",
    [
        hostile(link),
        hostile(lambda archive: archive.writestr("../a.png", png(1))),
        hostile(lambda archive: archive.writestr("/etc/a.png", png(1))),
        hostile(lambda archive: archive.writestr("inner.zip", zipped(pairs(1, 1)))),
    ],
    ids=["link", "parent", "absolute", "nested"],
)
def test_a_hostile_zip_is_refused(api: httpx.Client, content: bytes) -> None:
    assert code(post(api, content)) == (422, "archive_unsafe")


def test_a_served_picture_is_never_a_path_or_an_address(api: httpx.Client) -> None:
    images = ["/etc/passwd", "file:///etc/passwd", "http://127.0.0.1/a.png", "../a.png"]
    content = zipped([("1.png", "x"), *((image, "x") for image in images)])
    location = post(api, content).headers["location"]
    assert done(api, location)["rows"] == {"total": 5, "done": 1, "failed": 4}
    assert {one["code"] for one in lines(api.get(f"{location}/results?after=1"))} == {"image_elsewhere"}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"files": {"file": (None, "x")}}, (422, "invalid_field")),
        ({"files": {"other": ("a.csv", b"x")}}, (422, "invalid_field")),
        ({"files": {"file": ("a.csv", b"x")}, "data": {"image_column": "x" * 2000}}, (422, "invalid_field")),
        ({"files": {"file": ("a.csv", b"x")}, "data": {"more": "x"}}, (422, "invalid_field")),
        ({"json": {"a": 1}}, (415, "unsupported_media_type")),
        (
            {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}},
            (400, "malformed"),
        ),
    ],
)
def test_a_malformed_upload_is_refused(
    api: httpx.Client, sent: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert code(api.post("/v1/batches", **sent)) == expected


def test_a_file_that_declares_too_many_bytes_is_refused_before_it_is_sent(api: httpx.Client) -> None:
    connection = http.client.HTTPConnection(api.base_url.host, api.base_url.port, timeout=PATIENCE)
    connection.putrequest("POST", "/v1/batches")
    connection.putheader("Content-Type", "text/csv")
    connection.putheader("Content-Length", str(BATCH_BYTES + 1))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (413, "too_large")
    connection.close()


def test_an_idempotency_key_returns_the_first_batch(api: httpx.Client) -> None:
    content, other = zipped(pairs(1, 1)), zipped(pairs(1, 2))
    first, again = (post(api, content, **{"idempotency-key": "order-1"}) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.headers["location"] == again.headers["location"]
    assert code(post(api, other, **{"idempotency-key": "order-1"})) == (409, "idempotency_conflict")
    assert (
        post(api, content, **{"idempotency-key": "order-2"}).headers["location"] != first.headers["location"]
    )
    assert post(api, content).headers["location"] != first.headers["location"]
    for wrong in ("", "a b", "x" * 256):
        assert code(post(api, content, **{"idempotency-key": wrong})) == (422, "invalid_id")


def test_a_cancelled_batch_keeps_its_rows(api: httpx.Client) -> None:
    location = post(api, zipped(pairs(2, 1))).headers["location"]
    done(api, location)
    answer = api.delete(location)
    assert (answer.status_code, answer.json()["state"]) == (202, "done")
    assert len(lines(api.get(f"{location}/results"))) == 2
    assert code(api.delete("/v1/batches/" + "0" * 32)) == (404, "not_found")


def test_results_of_many_pages_are_complete(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch.store.PAGE_BYTES", 100)
    location = post(api, zipped(pairs(3, 5))).headers["location"]
    done(api, location)
    assert [line["row"] for line in lines(api.get(f"{location}/results"))] == list(range(1, 16))
    assert len(api.get(f"{location}/results?format=csv").text.splitlines()) == 16


def test_calibrated_columns_do_not_depend_on_the_first_rows(
    application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.batches.PAGE", 2)
    used = CalibrationState("used", calibration=Calibration(2.0, 0.9, 0.5, "0" * 64))
    application._status.update(calibration=used)
    rows = [("none.png", "a"), ("none.png", "b"), ("none.png", "c"), ("1.png", "d")]
    with serving(application, tmp_path) as front, client(front) as api:
        location = post(api, zipped(rows)).headers["location"]
        done(api, location)
        header, *found = csv.reader(io.StringIO(api.get(f"{location}/results?format=csv").text))
    assert header[-3:] == ["decision", "code", "error"]
    assert {len(row) for row in found} == {len(header)}
    assert [bool(row[-3]) for row in found] == [False, False, False, True]


def test_a_text_that_no_setting_allows_is_not_kept_to_be_judged(api: httpx.Client) -> None:
    long = "x" * 100_001
    accepted = post(api, zipped([("1.png", long), ("1.png", long[1:])]))
    assert accepted.json()["rows"] == {"total": 2, "done": 0, "failed": 1}
    done(api, accepted.headers["location"])
    found = lines(api.get(f"{accepted.headers['location']}/results"))
    assert [line["code"] for line in found] == ["text_too_long", "text_too_long"]


def test_what_is_not_utf_8_is_answered(api: httpx.Client) -> None:
    line = {"image": "a", "text": "b\ud800", "id": "\udfff", "k\udfff": "\ud83d"}
    accepted = post(api, json.dumps(line).encode(), "list.jsonl")
    assert (accepted.status_code, accepted.json()["columns"][-1]) == (202, "k")
    for form in ("csv", "jsonl"):
        assert api.get(f"{accepted.headers['location']}/results?format={form}").status_code == 200
    assert code(post(api, json.dumps({"k\udfff": 1}).encode(), "list.jsonl")) == (422, "column_missing")


def test_two_files_are_read_at_once_and_others_wait(
    api: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes memory, and a thread that every other call about batches needs, too."""
    reading: SimpleQueue[None] = SimpleQueue()
    go_on = threading.Event()

    def blocked(*arguments: Any) -> Accepted:
        reading.put(None)
        go_on.wait(30)
        return add_rows(*arguments)

    location = post(api, zipped(pairs(1, 1))).headers["location"]
    done(api, location)
    monkeypatch.setattr("batch.batches.add_rows", blocked)
    with ThreadPoolExecutor(4) as pool:
        uploads = [pool.submit(post, api, zipped(pairs(1, 1))) for _ in range(4)]
        try:
            until(lambda: len(list((tmp_path / "batches").glob("*.part"))) == 4)
            time.sleep(0.3)  # the last one could begin to be read
            assert api.get(location).status_code == 200
            assert reading.qsize() == IMPORTING == 2
        finally:
            go_on.set()
        assert [one.result().status_code for one in uploads] == [202] * 4


def test_there_is_no_listing(api: httpx.Client) -> None:
    assert code(api.get("/v1/batches")) == (405, "method_not_allowed")


def test_the_id_begins_with_the_instance(application: Application, tmp_path: Path) -> None:
    with serving(application, tmp_path, settings={"instance": 200}) as front, client(front) as api:
        ids = {post(api, zipped(pairs(1, 1))).json()["id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(len(one) == 32 and one.startswith("c8") for one in ids)


def test_a_batch_of_another_key_is_unknown(application: Application, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    first, second = (api_keys.make(file, name, 600, 4) for name in ("first", "second"))
    identity = Identity(ApiKeys(file))
    with serving(application, tmp_path, identity=identity) as front, client(front) as api:
        mine, theirs = ({"x-api-key": key} for key in (first, second))
        assert code(post(api, zipped(pairs(1, 1)))) == (401, "no_key")
        location = post(api, zipped(pairs(1, 1)), **mine).headers["location"]
        done(api, location, **mine)
        unknown = "/v1/batches/" + "0" * 32
        for path in ("", "/results", "/pictures/1"):
            answers = [api.get(place + path, headers=theirs) for place in (location, unknown)]
            assert [code(one) for one in answers] == [(404, "not_found")] * 2
            assert len({one.json()["detail"] for one in answers}) == 1
            assert api.get(location + path, headers=mine).status_code == 200
        assert code(api.delete(location, headers=theirs)) == (404, "not_found")
        # The same idempotency key of another caller is another upload.
        sent = [post(api, zipped(pairs(1, 1)), **who, **{"idempotency-key": "k"}) for who in (mine, theirs)]
        assert len({one.headers["location"] for one in sent}) == 2


def test_the_limits_of_a_key_count_uploads_not_rows(application: Application, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key = {"x-api-key": api_keys.make(file, "first", 2, 4)}
    with serving(application, tmp_path, identity=Identity(ApiKeys(file))) as front, client(front) as api:
        for _ in range(2):
            location = post(api, zipped(pairs(9, 9)), **key).headers["location"]
            assert done(api, location, **key)["rows"]["done"] == 81
        assert code(post(api, zipped(pairs(1, 1)), **key)) == (429, "rate_limit")
        assert api.get(location, headers=key).status_code == 200


def test_an_expired_batch_is_gone(
    application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.runner.SWEEP_SECONDS", 0.0)
    monkeypatch.setattr("batch.runner.IDLE_SECONDS", 0.01)
    clock = Clock(1_800_000_000.0)
    with serving(application, tmp_path, clock=clock) as front, client(front) as api:
        location = post(api, zipped(pairs(1, 1))).headers["location"]
        done(api, location)
        clock.move(7 * 86_400)
        until(lambda: api.get(location).status_code == 410)
        assert code(api.get(location)) == (410, "expired")
        assert code(api.get(f"{location}/results")) == (410, "expired")


def test_without_a_suitable_folder_batches_are_off_and_the_rest_is_served(
    application: Application, tmp_path: Path
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/export {tmp_path} nfs4 rw 0 0\n")
    with ExitStack() as stack:
        api = stack.enter_context(client(stack.enter_context(serving(application, tmp_path, mounts=mounts))))
        assert code(post(api, zipped(pairs(1, 1)))) == (501, "batches_off")
        assert code(api.get("/v1/batches/" + "0" * 32)) == (501, "batches_off")
        assert api.get("/v1/model").status_code == 200


def test_the_id_of_a_batch_and_its_texts_are_not_logged(
    application: Application, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("batch", "service", "api"):
        caplog.set_level("INFO", name)
    with serving(application, tmp_path) as front, client(front) as api:
        location = post(api, zipped([("1.png", "xylophonist"), ("none.png", "xylophonist")])).headers[
            "location"
        ]
        done(api, location)
        until(lambda: "BATCH_ENDED" in caplog.text)
    known = location.rpartition("/")[2]
    assert f"BATCH_ACCEPTED | BATCH={known[:8]} | FORM=csv | ROWS=2 | FAILED=0" in caplog.text
    assert f"BATCH_ENDED | BATCH={known[:8]} | STATE=done | ROWS=2 | DONE=1 | FAILED=1" in caplog.text
    assert known not in caplog.text
    assert "xylophonist" not in caplog.text


def test_the_metrics_show_batches(application: Application, tmp_path: Path) -> None:
    with serving(application, tmp_path) as front, client(front) as api:
        done(api, post(api, zipped(pairs(1, 1))).headers["location"])
        until(lambda: b'ofa_batches{state="done"} 1.0' in application.exposition())
        until(lambda: b"ofa_batch_rows_waiting 0.0" in application.exposition())
