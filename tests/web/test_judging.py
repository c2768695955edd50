"""The handlers: whatever the application does, a person gets an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from page import judging
from service.request import Source, Verdict
from service.status import Snapshot
from tests.web.application import READY, FakeApplication

SECRET = "xylophonist"


class Silent(FakeApplication):
    """Accepts, and never answers."""

    def submit(
        self, image: Any, text: str | None, premise: str | None = None, *, source: Source = "api"
    ) -> Future[Verdict]:
        return Future()


class Broken(FakeApplication):
    """Fails in a way nobody foresaw, with the user's words in its error."""

    def submit(
        self, image: Any, text: str | None, premise: str | None = None, *, source: Source = "api"
    ) -> Future[Verdict]:
        raise RuntimeError(f"cannot do {text}")

    def snapshot(self) -> Snapshot:
        return READY


@pytest.fixture
def intake() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def ask(application: FakeApplication, intake: ThreadPoolExecutor, text: str) -> dict[str, object]:
    handlers = judging.Judging(application, intake=intake, limit=0.05, examples=())
    return asyncio.run(handlers.for_programs("picture.png", text))


def test_a_request_the_application_forgets_is_answered_all_the_same(
    intake: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "SPARE_SECONDS", 0.05)
    assert ask(Silent(), intake, "a circle")["reason"] == "timeout"


def test_a_failure_nobody_foresaw_is_no_verdict_and_logs_no_words(
    intake: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(Broken(), intake, SECRET)["reason"] == "error"
    assert "RuntimeError" in caplog.text
    assert SECRET not in caplog.text
