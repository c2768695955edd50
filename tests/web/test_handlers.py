"""The handlers: whatever the application does, a person gets an answer."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from page import handlers, pending
from page.server import PageServer, _at_once
from page.words import LANGUAGES
from service.callers import UNKNOWN, Callers, networks
from service.contract.request import QueueEstimate, VerdictFuture
from service.contract.status import Snapshot
from service.settings import Settings
from tests.fakes import PATIENCE
from tests.web.application import READY, FakeApplication

SECRET = "xylophonist"


class Silent(FakeApplication):
    """Accepts, and never answers."""

    def submit(self, image: Any, text: str | None, premise: str | None = None, **more: Any) -> VerdictFuture:
        return VerdictFuture()


class Broken(FakeApplication):
    """Fails in a way nobody foresaw, with the user's words in its error."""

    def submit(self, image: Any, text: str | None, premise: str | None = None, **more: Any) -> VerdictFuture:
        raise RuntimeError(f"cannot do {text}")

    def snapshot(self) -> Snapshot:
        return READY


@pytest.fixture
def intake() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def ask(application: FakeApplication, intake: ThreadPoolExecutor, text: str) -> dict[str, object]:
    handlers = judging.Handlers(application, intake=intake, limit=0.05, examples=())
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


# ---- what is shown meanwhile -----------------------------------------------------------------------------


class Held(FakeApplication):
    """Answers when told to."""

    def __init__(self, queue_estimate: QueueEstimate | None = None) -> None:
        super().__init__()
        self.future = VerdictFuture()
        self.future.queue_estimate = queue_estimate

    def submit(self, image: Any, text: str | None, premise: str | None = None, **more: Any) -> VerdictFuture:
        return self.future

    def answer(self) -> None:
        self.future.set_result(super().submit("picture.png", "a circle").result())


READING = [pending.card(None, language, limit=15.0) for language in LANGUAGES]


class Conversation:
    """A browser that has asked: ``shown`` takes what it is sent next, ``leave`` is its going away."""

    def __init__(
        self, application: FakeApplication, intake: ThreadPoolExecutor, language: str = "en"
    ) -> None:
        handlers = judging.Handlers(application, intake=intake, limit=15.0, examples=())
        request: Any = SimpleNamespace(headers={"accept-language": language})
        self._answers = handlers.for_page("picture.png", "a circle", None, request)
        self.leave = self._answers.aclose

    async def shown(self) -> str:
        """What comes next; but for what a busy machine shows while the request is being read."""
        html = await asyncio.wait_for(anext(self._answers), PATIENCE)
        return await self.shown() if html in READING else html

    async def first(self) -> str:
        return await asyncio.wait_for(anext(self._answers), PATIENCE)

    async def ended(self) -> bool:
        return await asyncio.wait_for(anext(self._answers, None), PATIENCE) is None


def test_who_is_answered_at_once_is_shown_the_answer_alone(
    intake: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "NOTICE_SECONDS", PATIENCE)

    async def conversation() -> None:
        asked = Conversation(FakeApplication(), intake)
        assert "answer-yes" in await asked.shown()
        assert await asked.ended()

    asyncio.run(conversation())


@pytest.mark.parametrize(
    ("language", "told"), [("en", "3 requests are ahead of yours · about 6 s"), ("zh", "大约 6 秒")]
)
def test_who_waits_is_shown_how_long_it_takes_and_then_the_answer(
    intake: ThreadPoolExecutor, language: str, told: str
) -> None:
    async def conversation() -> None:
        application = Held(QueueEstimate(3, 6.0))
        asked = Conversation(application, intake, language)
        card = await asked.shown()
        assert "answer-pending" in card
        assert told in card
        application.answer()
        assert "answer-yes" in await asked.shown()
        assert await asked.ended()

    asyncio.run(conversation())


def test_before_anything_was_measured_no_time_is_told(intake: ThreadPoolExecutor) -> None:
    async def conversation() -> None:
        application = Held(QueueEstimate(2))
        asked = Conversation(application, intake)
        card = await asked.shown()
        assert "2 requests are ahead of yours" in card
        assert "about" not in card
        application.answer()
        assert "answer-yes" in await asked.shown(), "nothing is late where no time was told"

    asyncio.run(conversation())


def test_what_takes_longer_than_was_told_is_said_to(
    intake: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "LEAST_PATIENCE", 0.05)

    async def conversation() -> None:
        application = Held(QueueEstimate(0, 0.01))
        asked = Conversation(application, intake)
        assert "about 1 s" in await asked.shown()
        assert "longer than expected" in await asked.shown()
        application.answer()
        assert "answer-yes" in await asked.shown()

    asyncio.run(conversation())


def test_nobody_computes_for_a_browser_that_has_gone_away(intake: ThreadPoolExecutor) -> None:
    async def conversation() -> None:
        application = Held(QueueEstimate(0, 6.0))
        asked = Conversation(application, intake)
        await asked.shown()
        await asked.leave()
        await asyncio.sleep(0)  # the cancellation is handed on by the loop
        assert application.future.cancelled()

    asyncio.run(conversation())


def test_nobody_reads_a_picture_for_a_browser_that_has_gone_away(intake: ThreadPoolExecutor) -> None:
    """Its future is cancelled before the application has answered: reading ends, nothing is computed."""
    go, handed = threading.Event(), list[VerdictFuture]()

    class Reading(FakeApplication):
        def submit(self, *asked: Any, future: VerdictFuture | None = None, **more: Any) -> VerdictFuture:
            assert future is not None
            handed.append(future)
            go.wait(PATIENCE)
            return future

    async def conversation() -> None:
        asked = Conversation(Reading(), intake)
        assert await asked.first() in READING
        await asked.leave()
        assert handed[0].cancelled()
        go.set()

    asyncio.run(conversation())


def test_the_application_is_told_who_asks_and_since_when(intake: ThreadPoolExecutor) -> None:
    """The arrival is the handler's, however long the call waited for a thread."""
    asked: list[dict[str, Any]] = []

    class Keeping(FakeApplication):
        def submit(self, *arguments: Any, **more: Any) -> VerdictFuture:
            asked.append(more)
            return super().submit(*arguments, **more)

    callers = Callers(networks("10.0.0.0/8"))
    handlers = judging.Handlers(Keeping(), intake=intake, limit=15.0, examples=(), callers=callers)
    for peer, headers in [("192.0.2.7", {}), ("10.1.2.3", {"x-forwarded-for": "192.0.2.9"}), ("", {})]:
        request: Any = SimpleNamespace(client=SimpleNamespace(host=peer), headers=headers)
        free = threading.Event()
        for _ in range(2):  # all threads there are
            intake.submit(free.wait, PATIENCE)

        async def conversation(request: Any = request, free: threading.Event = free) -> float:
            call = asyncio.create_task(handlers.for_programs("picture.png", "a circle", None, request))
            await asyncio.sleep(0.01)
            freed = time.monotonic()
            free.set()
            await call
            return freed

        assert asyncio.run(conversation()) >= asked[-1]["arrived"]
    assert [one["caller"] for one in asked] == ["192.0.2.7", "192.0.2.9", UNKNOWN]


def test_as_many_threads_may_wait_for_pictures_as_requests_may_run() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = PageServer(FakeApplication(), Settings(queue_size=7), listener)
        try:
            assert server._intake._max_workers == _at_once(7) == 71
        finally:
            server._intake.shutdown()


def test_input_that_cannot_be_judged_is_told_without_a_card_that_waits(
    intake: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "NOTICE_SECONDS", PATIENCE)

    async def conversation() -> None:
        handlers = judging.Handlers(FakeApplication(), intake=intake, limit=15.0, examples=())
        request: Any = SimpleNamespace(headers={})
        shown = [html async for html in handlers.for_page(None, "a circle", None, request)]
        assert len(shown) == 1
        assert "There is no picture." in shown[0]

    asyncio.run(conversation())
