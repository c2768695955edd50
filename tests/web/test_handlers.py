"""The handlers: every request gets an answer, whatever the application does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from page import handlers, pending
from page.site import PageSite, max_concurrent
from page.words import LANGUAGES, Language, say
from service.callers import UNKNOWN, Callers, networks
from service.contract.request import QueueEstimate, VerdictFuture
from service.contract.status import Snapshot
from service.settings import Settings
from tests.fakes import PATIENCE
from tests.web.application import READY, FakeApplication

SECRET = "xylophonist"


class Silent(FakeApplication):
    """Accepts requests and never answers."""

    def submit(self, image: Any, text: str | None, premise: str | None = None, **more: Any) -> VerdictFuture:
        return VerdictFuture()


class Broken(FakeApplication):
    """Raises an unexpected error that quotes the input."""

    def submit(self, image: Any, text: str | None, premise: str | None = None, **more: Any) -> VerdictFuture:
        raise RuntimeError(f"cannot do {text}")

    def snapshot(self) -> Snapshot:
        return READY


@pytest.fixture
def intake() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def ask(application: FakeApplication, intake: ThreadPoolExecutor, text: str) -> dict[str, object]:
    answering = handlers.Handlers(application, intake=intake, limit=0.05, examples=())
    return asyncio.run(answering.for_programs("picture.png", text))


def test_a_request_the_application_never_answers_times_out(
    intake: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "SPARE_SECONDS", 0.05)
    assert ask(Silent(), intake, "a circle")["reason"] == "timeout"


def test_an_unexpected_error_is_no_verdict_and_logs_no_input(
    intake: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(Broken(), intake, SECRET)["reason"] == "error"
    assert "RuntimeError" in caplog.text
    assert SECRET not in caplog.text


# ---- a pending answer -------------------------------------------------------------------------------------


class Held(FakeApplication):
    """Answers when ``answer`` is called."""

    def __init__(self, queue_estimate: QueueEstimate | None = None) -> None:
        super().__init__()
        self.future = VerdictFuture()
        self.future.queue_estimate = queue_estimate

    def submit(self, image: Any, text: str | None, premise: str | None = None, **more: Any) -> VerdictFuture:
        return self.future

    def answer(self) -> None:
        self.future.set_result(super().submit("picture.png", "a circle").result())


ROW = "row_1"
READING = {"row": ROW, "state": "pending", "text": ""}


class Conversation:
    """A browser's call: ``shown`` returns the next answer, ``disconnect`` closes the connection."""

    def __init__(
        self, application: FakeApplication, intake: ThreadPoolExecutor, language: str = "en"
    ) -> None:
        answering = handlers.Handlers(application, intake=intake, limit=15.0, examples=())
        request: Any = SimpleNamespace(headers={"accept-language": language})
        self._answers = answering.for_page("picture.png", "a circle", None, ROW, request)
        self.disconnect = self._answers.aclose

    async def shown(self) -> dict[str, Any]:
        """Return the next answer, skipping the one shown while a busy machine reads the request."""
        answer = await self.first()
        return await self.shown() if answer == READING else answer

    async def first(self) -> dict[str, Any]:
        return await asyncio.wait_for(anext(self._answers), PATIENCE)

    async def ended(self) -> bool:
        return await asyncio.wait_for(anext(self._answers, None), PATIENCE) is None


def test_a_fast_answer_is_the_only_one(intake: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "NOTICE_SECONDS", PATIENCE)

    async def conversation() -> None:
        asked = Conversation(FakeApplication(), intake)
        assert (await asked.shown())["verdict"]["label"] == "Yes"
        assert await asked.ended()

    asyncio.run(conversation())


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_slow_answer_is_preceded_by_queue_position_and_estimated_wait(
    intake: ThreadPoolExecutor, language: Language
) -> None:
    async def conversation() -> None:
        application = Held(QueueEstimate(3, 6.0))
        asked = Conversation(application, intake, language)
        answer = await asked.shown()
        assert (answer["row"], answer["state"]) == (ROW, "pending")
        assert say(language, "pending.ahead.many", count=3) in answer["text"]
        assert say(language, "about.seconds", s=6) in answer["text"]
        application.answer()
        assert (await asked.shown())["verdict"]["label"] == "Yes"
        assert await asked.ended()

    asyncio.run(conversation())


def test_without_an_estimate_no_time_is_shown(intake: ThreadPoolExecutor) -> None:
    async def conversation() -> None:
        application = Held(QueueEstimate(2))
        asked = Conversation(application, intake)
        assert (await asked.shown())["text"] == say("en", "pending.ahead.many", count=2)
        application.answer()
        assert (await asked.shown())["state"] == "verdict", "no answer is late without an estimate"

    asyncio.run(conversation())


def test_an_answer_later_than_estimated_is_announced(
    intake: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "MIN_LATE_SECONDS", 0.05)

    async def conversation() -> None:
        application = Held(QueueEstimate(0, 0.01))
        asked = Conversation(application, intake)
        assert say("en", "about.seconds", s=1) in (await asked.shown())["text"]
        assert say("en", "pending.late", limit=15) == (await asked.shown())["text"]
        application.answer()
        assert (await asked.shown())["verdict"]["label"] == "Yes"

    asyncio.run(conversation())


def test_a_disconnected_browser_cancels_the_computation(intake: ThreadPoolExecutor) -> None:
    async def conversation() -> None:
        application = Held(QueueEstimate(0, 6.0))
        asked = Conversation(application, intake)
        await asked.shown()
        await asked.disconnect()
        await asyncio.sleep(0)  # the cancellation is handed on by the loop
        assert application.future.cancelled()

    asyncio.run(conversation())


def test_a_disconnected_browser_cancels_the_reading_of_its_picture(intake: ThreadPoolExecutor) -> None:
    """Its future is cancelled before ``submit`` returns."""
    go, handed = threading.Event(), list[VerdictFuture]()

    class Reading(FakeApplication):
        def submit(self, *asked: Any, future: VerdictFuture | None = None, **more: Any) -> VerdictFuture:
            assert future is not None
            handed.append(future)
            go.wait(PATIENCE)
            return future

    async def conversation() -> None:
        asked = Conversation(Reading(), intake)
        assert await asked.first() == READING
        await asked.disconnect()
        assert handed[0].cancelled()
        go.set()

    asyncio.run(conversation())


def test_the_application_gets_the_caller_and_the_arrival_time(intake: ThreadPoolExecutor) -> None:
    """The arrival is the handler's, even if the call waits for a thread."""
    asked: list[dict[str, Any]] = []

    class Keeping(FakeApplication):
        def submit(self, *arguments: Any, **more: Any) -> VerdictFuture:
            asked.append(more)
            return super().submit(*arguments, **more)

    callers = Callers(networks("10.0.0.0/8"))
    answering = handlers.Handlers(Keeping(), intake=intake, limit=15.0, examples=(), callers=callers)
    for peer, headers in [("192.0.2.7", {}), ("10.1.2.3", {"x-forwarded-for": "192.0.2.9"}), ("", {})]:
        request: Any = SimpleNamespace(client=SimpleNamespace(host=peer), headers=headers)
        free = threading.Event()
        for _ in range(2):  # all threads there are
            intake.submit(free.wait, PATIENCE)

        async def conversation(request: Any = request, free: threading.Event = free) -> float:
            call = asyncio.create_task(answering.for_programs("picture.png", "a circle", None, request))
            await asyncio.sleep(0.01)
            freed = time.monotonic()
            free.set()
            await call
            return freed

        assert asyncio.run(conversation()) >= asked[-1]["arrived"]
    assert [one["caller"] for one in asked] == ["192.0.2.7", "192.0.2.9", UNKNOWN]


def test_there_is_one_intake_thread_per_concurrent_request() -> None:
    site = PageSite(FakeApplication(), Settings(queue_size=7))
    try:
        assert site._intake._max_workers == max_concurrent(7) == 71
    finally:
        site.close()


def test_an_input_error_is_the_only_answer(
    intake: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "NOTICE_SECONDS", PATIENCE)

    async def conversation() -> None:
        answering = handlers.Handlers(FakeApplication(), intake=intake, limit=15.0, examples=())
        request: Any = SimpleNamespace(headers={})
        (shown,) = [answer async for answer in answering.for_page(None, "a circle", None, ROW, request)]
        assert (shown["row"], shown["state"], shown["code"]) == (ROW, "input", "no_image")

    asyncio.run(conversation())
