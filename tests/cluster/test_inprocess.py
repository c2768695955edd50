"""The API called in its own process, with whole requests."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from api.app import ApiSite
from cluster import inprocess
from cluster.inprocess import Call
from service.http.bodies import App, Receive, Reply, Scope, Send
from service.settings import Settings
from tests.applications import Build
from tests.cluster.test_serving import PICTURE
from tests.fakes import YES, FakePredictor, until

QUESTION = json.dumps({"image": base64.b64encode(PICTURE).decode(), "text": "a red circle"}).encode()


def call(path: str = "/v1/judge", body: bytes = QUESTION, **headers: str) -> Call:
    sent = {"content-type": "application/json", **headers}
    method = "POST" if body else "GET"
    return Call(method, path, b"", [(a.encode(), b.encode()) for a, b in sent.items()], body, "192.0.2.7")


@contextmanager
def served(application: Any) -> Iterator[App]:
    site = ApiSite(application, Settings())
    try:
        yield site.start(0)
    finally:
        site.close()


def answer(app: App, one: Call, spent: float = 0.0) -> tuple[int, Any]:
    reply = asyncio.run(inprocess.answer(app, one, spent))
    return reply.status, json.loads(reply.body)


def test_a_call_is_answered(make: Build) -> None:
    application = make(FakePredictor())
    application.supervisor.load()
    with served(application) as app:
        status, body = answer(app, call())
        assert (status, body["results"][0]["label"]) == (200, "Yes")
        assert answer(app, call("/v1/model", b""))[0] == 200
        assert answer(app, call(body=b"{"))[1]["code"] == "malformed"
        assert answer(app, call(**{"content-encoding": "gzip"}))[1]["code"] == "unsupported_media_type"


def test_time_that_was_spent_before_is_gone(make: Build) -> None:
    application = make(FakePredictor())
    application.supervisor.load()
    with served(application) as app:
        assert answer(app, call(), Settings().timeout + 1)[1]["code"] == "timeout"


def test_cancelling_ends_the_request(make: Build) -> None:
    fake = FakePredictor()
    application = make(fake)
    application.supervisor.load()

    async def leave(app: App) -> None:
        task = asyncio.ensure_future(inprocess.answer(app, call(), 0.0))
        while "a red circle" not in fake.seen:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def compute(pairs: Any, cancel_point: Any) -> Any:
        while "a red circle" in [pair.hypothesis for pair in pairs]:
            cancel_point()
        return [YES for _ in pairs]

    fake.behave = compute
    with served(application) as app:
        asyncio.run(leave(app))
        until(lambda: application.snapshot().activity.counts.get("abandoned") == 1)


def test_an_application_that_breaks_has_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("".join(["a", " secret"]))  # not in the line that a traceback quotes

    with pytest.raises(RuntimeError, match="without an answer") as error:
        asyncio.run(inprocess.answer(broken, call(), 0.0))
    assert "a secret" not in caplog.text + str(error.value)


def test_an_answer_in_pieces_is_joined() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 201, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"!"})

    assert asyncio.run(inprocess.answer(app, call(body=b"x"), 0.0)) == Reply(201, [(b"a", b"b")], b"x!")
