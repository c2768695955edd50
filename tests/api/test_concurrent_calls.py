"""A key's calls in progress, over a real socket: their number is limited, and each ends in every way."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from api.app import ApiSite
from lab.instances.instance import ROOT
from service.api_keys import ApiKeys, make
from service.contract.request import Verdict, VerdictFuture
from service.contract.status import Snapshot
from service.front import Front
from service.http.identity import Identity
from service.listening import Connections, listen, page_limits
from service.settings import Settings
from service.telemetry.http_metrics import HttpMetrics
from tests.fakes import PATIENCE
from tests.web.application import READY, SCORES

PICTURE = (ROOT / "models" / "demo" / "examples" / "existence.png").read_bytes()


class Held:
    """An application that answers no call before ``answer``."""

    def __init__(self) -> None:
        self.futures: list[VerdictFuture] = []
        self.callers: list[str] = []
        self.http_metrics = HttpMetrics(CollectorRegistry())

    def submit_many(
        self,
        image: Any,
        texts: Sequence[str | None],
        *_: Any,
        caller: str = "",
        futures: Any = None,
        **__: Any,
    ) -> list[VerdictFuture]:
        self.callers.append(caller)
        submitted = list(futures or [VerdictFuture() for _ in texts])
        self.futures += submitted
        return submitted

    def answer(self) -> None:
        for future in self.futures:
            if not future.done() and future.set_running_or_notify_cancel():
                future.set_result(Verdict.of(SCORES, duration=0.1, device="cpu"))

    def snapshot(self) -> Snapshot:
        return READY


class Served:
    """The API over ``Held``, with one key of two calls at once."""

    def __init__(self, folder: Path) -> None:
        self.held = Held()
        self.key = make(folder / "keys", "shop", 10_000, 2)
        self.front = Front(
            {"": ApiSite(self.held, Settings(), Identity(ApiKeys(folder / "keys")))},
            listen("127.0.0.1", 0, "--port"),
            Connections("page", page_limits()),
        )

    def judge(self, *, timeout: float = PATIENCE) -> httpx.Response:
        return httpx.post(
            f"http://127.0.0.1:{self.front.port}/v1/judge",
            data={"text": "a dog"},
            files={"image": PICTURE},
            headers={"x-api-key": self.key},
            timeout=timeout,
        )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    served.front.start()
    yield served
    served.held.answer()
    served.front.stop()


def until(happened: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_calls_beyond_the_limit_are_refused_until_one_has_ended(served: Served) -> None:
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(served.judge) for _ in range(2)]
        until(lambda: len(served.held.futures) == 2)
        refused = served.judge()
        assert (refused.status_code, refused.json()["code"]) == (429, "concurrent_limit")
        assert int(refused.headers["retry-after"]) >= 1
        assert len(served.held.futures) == 2, "it has not reached the application"
        served.held.answer()
        assert [one.result().status_code for one in running] == [200, 200]
        again = pool.submit(served.judge)
        until(lambda: len(served.held.futures) == 3)
        served.held.answer()
        assert again.result().status_code == 200
    assert served.held.callers == ["shop"] * 3


def test_a_client_that_leaves_frees_its_place(served: Served) -> None:
    body = (
        b'--x\r\ncontent-disposition: form-data; name="text"\r\n\r\na dog\r\n'
        b'--x\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        + PICTURE
        + b"\r\n--x--\r\n"
    )
    head = (
        "POST /v1/judge HTTP/1.1\r\nhost: a\r\ncontent-type: multipart/form-data; boundary=x\r\n"
        f"x-api-key: {served.key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    for count in range(1, 7):  # three times the limit
        with socket.create_connection(("127.0.0.1", served.front.port), PATIENCE) as connection:
            connection.sendall(head.encode() + body)
            until(lambda count=count: len(served.held.futures) == count)  # type: ignore[misc]
        until(served.held.futures[-1].cancelled)
        until(lambda: _accepts(served))


def _accepts(served: Served) -> bool:
    """Whether a call would be admitted: this one has no picture, which is noticed later."""
    answer = httpx.post(
        f"http://127.0.0.1:{served.front.port}/v1/judge",
        files={"text": (None, "a dog")},
        headers={"x-api-key": served.key},
    )
    assert answer.status_code in (422, 429)
    return answer.status_code == 422


def test_a_call_that_is_refused_frees_its_place(served: Served) -> None:
    for _ in range(5):
        assert _accepts(served)
