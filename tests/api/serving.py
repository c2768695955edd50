"""The API over a real socket, in the test's process, and raw calls to it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from PIL import Image
from prometheus_client import CollectorRegistry

from api.app import ApiSite
from api.calls import Application
from service.contract.correlation import Trace
from service.contract.request import Source, Verdict, VerdictFuture
from service.contract.status import Snapshot
from service.front import Front
from service.listening import Connections, listen, page_limits
from service.settings import Settings
from service.telemetry.http_metrics import HttpMetrics
from tests.fakes import PATIENCE
from tests.web.application import READY, SCORES


def picture(format: str = "PNG", size: tuple[int, int] = (32, 24)) -> bytes:
    """Return a picture file."""
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, format)
    return file.getvalue()


PICTURE = picture()
ENCODED = base64.b64encode(PICTURE).decode()


class ScriptedApplication:
    """Answer each text with Yes; a text of ``answers`` with that verdict. ``hold`` keeps calls unanswered."""

    def __init__(self, answers: Mapping[str, Verdict] | None = None, snapshot: Snapshot = READY) -> None:
        self.answers = answers or {}
        self.hold = False
        self.seen: list[dict[str, Any]] = []
        self.futures: list[VerdictFuture] = []
        self._snapshot = snapshot
        self.registry = CollectorRegistry()
        self.http_metrics = HttpMetrics(self.registry)

    def submit_many(
        self,
        image: Any,
        hypotheses: Sequence[str | None],
        premise: str | None = None,
        *,
        source: Source = "api",
        arrived: float | None = None,
        caller: str = "",
        client_id: str = "",
        trace: Trace | None = None,
        futures: Sequence[VerdictFuture] | None = None,
    ) -> list[VerdictFuture]:
        self.seen.append({"image": image, "texts": list(hypotheses), "premise": premise, "caller": caller})
        self.seen[-1] |= {"client_id": client_id, "trace": trace}
        submitted = list(futures or [VerdictFuture() for _ in hypotheses])
        self.futures += submitted
        for text, future in zip(hypotheses, submitted, strict=True):
            if not self.hold and future.set_running_or_notify_cancel():
                verdict = self.answers.get(text or "") or Verdict.of(SCORES, duration=0.4, device="cpu")
                future.set_result(verdict)
        return submitted

    def snapshot(self) -> Snapshot:
        return self._snapshot


@contextmanager
def serving(application: Application, **settings: object) -> Iterator[Front]:
    """Serve the API alone inside the context."""
    configured = Settings(**settings)  # type: ignore[arg-type]
    front = Front(
        {"": ApiSite(application, configured)},
        listen("127.0.0.1", 0, "--port"),
        Connections("page", page_limits()),
        root_path=configured.root_path,
    )
    try:
        front.start()
        yield front
    finally:
        front.stop()


@contextmanager
def client(front: Front) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base(front), timeout=PATIENCE) as one:
        yield one


def base(front: Front) -> str:
    return f"http://127.0.0.1:{front.port}"


def code(answer: httpx.Response) -> tuple[int, str]:
    """Return status and code of an error; check the form that every error has."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {"type", "title", "status", "code", "detail", "request_id"} <= problem.keys()
    assert problem["status"] == answer.status_code
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["detail"]
    return answer.status_code, problem["code"]
