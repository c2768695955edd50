"""The front over replicas that fail: what is asked again, what is answered, what is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError, TaskCancelledError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from cluster import ingress
from cluster.ingress import Front
from service.settings import Settings

OK = (200, [(b"content-type", b"application/json"), (b"connection", b"close")], b'{"ok": true}')


def refusal(code: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    return 503, [(b"retry-after", b"7")], json.dumps({"code": code}).encode()


class Response:
    """What a handle returns: an iterator that can be cancelled."""

    def __init__(self, steps: Sequence[Any]) -> None:
        self.cancelled = False
        self._steps = self._run(steps)

    async def _run(self, steps: Sequence[Any]) -> AsyncIterator[Any]:
        for step in steps:
            if isinstance(step, BaseException):
                raise step
            if step == "hang":
                await asyncio.Event().wait()
            yield step

    def __anext__(self) -> Any:
        return anext(self._steps)

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A deployment handle whose calls behave as listed, one after the other."""

    def __init__(self, *behaviours: Sequence[Any]) -> None:
        self._behaviours = list(behaviours)
        self.responses: list[Response] = []
        self.calls: list[tuple[Any, ...]] = []
        self.answer = self

    def options(self, **_: object) -> Handle:
        return self

    def remote(self, *call: Any, spent: float) -> Response:
        self.calls.append((*call, spent))
        self.responses.append(Response(self._behaviours.pop(0)))
        return self.responses[-1]


def ask(
    handle: Handle,
    body: bytes = b"{}",
    path: str = "/v1/judge",
    leave: bool = False,
    keys: Path | None = None,
    **headers: str,
) -> tuple[int, dict[bytes, bytes], Any]:
    """Return status, headers and body of the front's answer. ``leave`` cancels it once a replica is asked."""
    front = Front(handle, Settings(model="demo", timeout=1.0, max_bytes=100_000, api_keys_file=keys))
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST" if body else "GET",
        "path": path,
        "query_string": b"a=b",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "client": ("192.0.2.7", 1),
        "state": {},
    }

    async def run() -> None:
        task = asyncio.ensure_future(front(scope, receive, send))
        while leave and not handle.calls:
            await asyncio.sleep(0)
        if leave:
            await asyncio.sleep(0.01)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())
    if not sent:
        return 0, {}, None
    content = b"".join(one.get("body", b"") for one in sent)
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(content)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "RECEIPT_SECONDS", 0.05)
    monkeypatch.setattr(ingress, "SPARE_SECONDS", 0.0)


def test_a_replica_s_answer_is_passed_on() -> None:
    handle = Handle([None, OK])
    status, headers, body = ask(handle, b'{"text": "x"}', x_request_id="an-id")
    assert (status, body) == (200, {"ok": True})
    assert headers[b"x-request-id"] == b"an-id"
    assert b"connection" not in headers
    ((method, path, query, sent, content, peer, spent),) = handle.calls
    assert (method, path, query, content, peer) == (
        "POST",
        "/v1/judge",
        b"a=b",
        b'{"text": "x"}',
        "192.0.2.7",
    )
    assert dict(sent)[b"x-request-id"] == b"an-id"
    assert 0 <= spent < 1
    assert not handle.responses[0].cancelled


@pytest.mark.parametrize(
    "first",
    [
        [ActorDiedError()],
        [None, ActorDiedError()],
        [None, ActorUnavailableError("unavailable", None)],
        [TaskCancelledError()],
        ["hang"],  # no receipt
        [None, refusal("stopping")],
        [None, refusal("loading")],
    ],
)
def test_a_call_that_was_lost_or_not_begun_is_asked_again(first: Sequence[Any]) -> None:
    handle = Handle(first, [None, OK])
    assert ask(handle)[0] == 200
    assert handle.calls[1][:-1] == handle.calls[0][:-1]
    assert handle.calls[1][-1] > handle.calls[0][-1], "more of the time limit is spent"


@pytest.mark.parametrize("code", ["queue_full", "too_late", "stuck"])
def test_a_full_queue_is_not_asked_again(code: str) -> None:
    handle = Handle([None, refusal(code)])
    status, headers, body = ask(handle)
    assert (status, headers[b"retry-after"], body["code"]) == (503, b"7", code)


def test_it_is_asked_again_only_once() -> None:
    handle = Handle([ActorDiedError()], [ActorDiedError()])
    status, _, body = ask(handle)
    assert (status, body["code"], len(handle.calls)) == (503, "no_instance", 2)
    handle = Handle([None, refusal("stopping")], [None, refusal("stopping")])
    assert ask(handle)[2]["code"] == "stopping"


def failed() -> Exception:
    return RayTaskError("answer", "traceback", RuntimeError("a secret"))


@pytest.mark.parametrize(
    ("make", "status", "code"),
    [
        (lambda: BackPressureError(1, 1), 503, "queue_full"),
        (lambda: DeploymentUnavailableError(DeploymentID("judge", "app")), 503, "loading"),
        (failed, 500, "error"),
    ],
)
def test_ray_s_errors_are_problems(make: Callable[[], Exception], status: int, code: str) -> None:
    answered, headers, body = ask(Handle([make()]))
    assert (answered, body["code"], body["status"]) == (status, code, status)
    assert headers[b"content-type"] == b"application/problem+json"
    assert (b"retry-after" in headers) == (status == 503)
    assert "secret" not in json.dumps(body)


def test_a_replica_that_never_answers_is_cancelled_at_the_time_limit() -> None:
    handle = Handle([None, "hang"])
    status, _, body = ask(handle)
    assert (status, body["code"]) == (504, "timeout")
    assert handle.responses[0].cancelled


def test_a_client_that_leaves_cancels_the_call() -> None:
    handle = Handle([None, "hang"])
    assert ask(handle, leave=True)[0] == 0
    assert handle.responses[0].cancelled
    assert len(handle.calls) == 1


def test_a_body_over_the_limit_reaches_no_replica() -> None:
    handle = Handle()
    assert ask(handle, b"x" * 1_000_000)[2]["code"] == "too_large"
    assert handle.calls == []


def test_the_error_of_the_inference_protocol_has_its_own_member() -> None:
    assert ask(Handle([BackPressureError(1, 1)]), path="/v2/models/ofa/infer")[2]["error"] == "queue_full"


def test_without_replicas_nothing_is_healthy() -> None:
    assert ask(Handle(), b"", "/health")[::2] == (503, {"status": "unhealthy", "replicas": []})


def test_a_body_is_received_only_from_who_has_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys"
    line = f"owner {hashlib.sha256(b'a-key').hexdigest()} 60 4\n"
    keys.touch(0o600)
    keys.write_text(line)
    received = []
    monkeypatch.setattr(ingress, "received", lambda *_, **__: received.append(1))
    status, _, body = ask(Handle(), keys=keys, x_api_key="another")
    assert (status, body["code"], received) == (401, "wrong_key", [])
    monkeypatch.undo()
    assert ask(Handle([None, OK]), keys=keys, x_api_key="a-key")[0] == 200
    assert ask(Handle([None, OK]), b"", "/openapi.json", keys=keys)[0] == 200, "free"


@pytest.mark.parametrize("path", ingress.OWN_PATHS)
def test_its_own_paths_are_only_read(path: str) -> None:
    status, headers, body = ask(Handle(), b"{}", path)
    assert (status, body["code"], headers[b"allow"]) == (405, "method_not_allowed", b"GET, HEAD")


def test_a_large_body_gets_more_time_to_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "RECEIPT_PER_BYTE", 1.0)
    handle = Handle(["hang"])
    assert ask(handle, b"xx")[2]["code"] == "timeout"
    assert len(handle.calls) == 1, "the receipt may take 2 s more, which the time limit ends"
