"""Uploads through the gate, with quotas small enough to be used up."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from page import uploads as store
from page.gate import Gate
from page.upload_routes import UPLOAD, UPLOAD_MEMORY, UploadRoutes
from page.uploads import FULL_QUOTAS, LEAST_BYTES, Uploads
from page.words import say
from service.callers import Callers, networks
from service.http.quota import Quota
from tests.fakes import until
from tests.web.client import present
from tests.web.raw import form

T = TypeVar("T")
Conversation = Callable[[httpx.AsyncClient], Awaitable[T]]
KIND = {"content-type": "multipart/form-data; boundary=XX"}
FILES = 4  # of the smallest size, in the quota of one caller
TOTAL = FULL_QUOTAS * FILES


class Service:
    """A gate over uploads; callers are distinguished by X-Forwarded-For."""

    def __init__(self, memory: int = 16 * UPLOAD_MEMORY) -> None:
        self.uploads = Uploads(65002)
        callers = Callers(networks("127.0.0.1"))
        self.routes = UploadRoutes(self.uploads, callers, Quota(memory, memory // 2))
        self.gate = Gate(None, max_bytes=1 << 20, uploads=self.routes, callers=callers)  # type: ignore[arg-type]

    def run(self, conversation: Conversation[T]) -> T:
        async def inner() -> T:
            transport = httpx.ASGITransport(self.gate, client=("127.0.0.1", 9))  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await conversation(client)

        return asyncio.run(inner())

    def files(self) -> list[Path]:
        return present(self.uploads.folder, "*/picture*")


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(store, "CALLER_BYTES", FILES * LEAST_BYTES)


@contextmanager
def service(**options: Any) -> Iterator[Service]:
    one = Service(**options)
    yield one
    one.routes.close()
    one.uploads.stop()


async def put(client: httpx.AsyncClient, caller: str = "203.0.113.1", size: int = 10) -> httpx.Response:
    headers = {**KIND, "x-forwarded-for": caller}
    return await client.post(UPLOAD, content=form(b"x" * size), headers=headers)


def test_a_callers_uploads_evict_only_its_own_files() -> None:
    async def conversation(client: httpx.AsyncClient) -> tuple[list[str], str]:
        other = (await put(client, "203.0.113.2")).json()[0]
        mine = [(await put(client)).json()[0] for _ in range(3 * FILES)]
        return mine, other

    with service() as one:
        mine, other = one.run(conversation)
        assert {str(path) for path in one.files()} == {other, *mine[-FILES:]}


def test_more_than_the_quota_at_once_is_refused_and_leaves_no_file(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def conversation(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await put(client, size=(FILES + 1) * LEAST_BYTES) for _ in range(3)]

    with service() as one:
        answers = one.run(conversation)
        assert [answer.status_code for answer in answers] == [429] * 3
        assert one.files() == []
    assert answers[0].text == say("en", "upload.share")
    assert int(answers[0].headers["retry-after"]) > 0
    assert caplog.text.count("UPLOAD_REFUSED | REASON=share | FROM=203.0.113.1") == 1


def test_when_all_files_are_in_use_an_upload_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def conversation(client: httpx.AsyncClient) -> tuple[list[int], httpx.Response]:
        filled = [await put(client, f"203.0.113.{1 + number // FILES}") for number in range(TOTAL)]
        held = [one.uploads.in_use(Path(answer.json()[0])) for answer in filled]
        for use in held:
            use.__enter__()
        refused = await put(client, "203.0.113.99")
        held.pop().__exit__(None, None, None)
        taken = await put(client, "203.0.113.99")
        return [answer.status_code for answer in (*filled, taken)], refused

    with service() as one:
        statuses, refused = one.run(conversation)
    assert set(statuses) == {200}
    assert refused.status_code == 507
    assert refused.text == say("en", "upload.no_room")
    assert "UPLOAD_REFUSED | REASON=no_room" in caplog.text


def test_a_refusal_is_in_the_callers_language() -> None:
    async def conversation(client: httpx.AsyncClient) -> httpx.Response:
        client.headers["accept-language"] = "zh-CN"
        return await put(client, size=(FILES + 1) * LEAST_BYTES)

    with service() as one:
        assert one.run(conversation).text == say("zh", "upload.share")


def test_concurrent_uploads_hold_bounded_memory() -> None:
    """Of four at once, one caller may send two."""
    going_on = asyncio.Event()

    async def slow() -> Any:
        yield form(b"x")[:-10]
        await going_on.wait()
        yield form(b"x")[-10:]

    async def conversation(client: httpx.AsyncClient) -> list[int]:
        def send(caller: str) -> Any:
            headers = {**KIND, "x-forwarded-for": caller}
            return asyncio.create_task(client.post(UPLOAD, content=slow(), headers=headers))

        begun = [send(f"203.0.113.{caller}") for caller in (1, 1, 2, 2)]
        await asyncio.to_thread(until, lambda: len(one.files()) == 4)
        refused = [await put(client, "203.0.113.1"), await put(client, "203.0.113.3")]
        going_on.set()
        done = [await task for task in begun]
        after = await put(client, "203.0.113.3")
        return [answer.status_code for answer in (*refused, *done, after)]

    with service(memory=4 * UPLOAD_MEMORY) as one:
        assert one.run(conversation) == [429, 503, 200, 200, 200, 200, 200]


def test_only_pictures_are_displayed_by_the_browser() -> None:
    async def conversation(client: httpx.AsyncClient) -> list[tuple[str, str]]:
        shown = []
        for name in ("a.png", "a.jpg", "a.html", "a.svg", "a"):
            body = form(b"<script>", f'form-data; name="files"; filename="{name}"')
            path = (await client.post(UPLOAD, content=body, headers=KIND)).json()[0]
            answer = await client.get(f"/gradio_api/file={path}")
            way = answer.headers["content-disposition"].partition(";")[0]
            shown.append((answer.headers["content-type"], way))
        return shown

    with service() as one:
        assert one.run(conversation) == [
            ("image/png", "inline"),
            ("image/jpeg", "inline"),
            *[("application/octet-stream", "attachment")] * 3,
        ]
