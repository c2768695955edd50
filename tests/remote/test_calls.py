"""Calls to the engine behind --engine: cancelled, late, broken, many at once, and what they carry."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from service.contract.causes import Refusal
from service.contract.correlation import Trace
from service.contract.errors import InputError
from service.front import Front
from tests.api.serving import PICTURE, ScriptedApplication, base, serving
from tests.fakes import until
from tests.remote.answering import answering, judged
from tests.remote.conftest import Over


@pytest.fixture
def engine() -> Iterator[tuple[ScriptedApplication, Front]]:
    scripted = ScriptedApplication()
    with serving(scripted) as front:
        yield scripted, front
        scripted.hold = False
        for future in scripted.futures:
            future.cancel()


def test_bytes_and_texts_arrive_as_they_are(engine: tuple[ScriptedApplication, Front], over: Over) -> None:
    scripted, front = engine
    picture = b"\x89PNG\r\n--not the boundary--\r\n\x00\xff" * 40_000  # more than one piece
    texts = ["一个红色的圆", "a\r\n--b--\r\nContent-Disposition: form-data"]
    futures = over(base(front)).submit_many(picture, texts, "premise ☂", caller="203.0.113.7")
    assert [future.result(30).label for future in futures] == ["Yes", "Yes"]
    seen = scripted.seen[-1]
    assert seen["image"] == picture
    assert seen["texts"] == ["一个红色的圆", "a  --b--  Content-Disposition: form-data"]
    assert seen["premise"] == "premise ☂"


def test_the_client_and_its_trace_are_handed_on(
    engine: tuple[ScriptedApplication, Front], over: Over
) -> None:
    scripted, front = engine
    application, trace = over(base(front)), Trace("a" * 32, "b" * 16, True)
    application.submit(PICTURE, "a", client_id="order-7", trace=trace).result(30)
    assert (scripted.seen[-1]["client_id"], scripted.seen[-1]["trace"]) == ("order-7", trace)
    verdict = application.submit(PICTURE, "a").result(30)
    assert scripted.seen[-1]["client_id"] == verdict.request_id


def test_a_cancelled_request_ends_at_the_engine(
    engine: tuple[ScriptedApplication, Front], over: Over
) -> None:
    scripted, front = engine
    application = over(base(front))
    scripted.hold = True
    first, second = application.submit_many(PICTURE, ["held", "also held"])
    until(lambda: len(scripted.futures) >= 2 and scripted.seen[-1]["texts"] == ["held", "also held"])
    at_engine = scripted.futures[-2:]
    assert first.cancel()
    assert not any(future.cancelled() for future in at_engine), "the other text is still wanted"
    assert second.cancel()
    until(lambda: all(future.cancelled() for future in at_engine))
    until(lambda: application.snapshot().activity.counts.get("abandoned") == 2)
    assert application.snapshot().activity.depth == 0


def test_cancelled_calls_give_their_connections_back(
    engine: tuple[ScriptedApplication, Front], over: Over
) -> None:
    """Cancelled at any point: while it connects, sends, waits, reads, or hands its connection back."""
    application = over(base(engine[1]), queue_size=4, probe_interval=3600.0)
    pause = random.Random(1)
    for _ in range(400):
        futures = [application.submit(PICTURE, "a") for _ in range(2)]
        time.sleep(pause.uniform(0, 0.01))
        for future in futures:
            future.cancel()
    until(lambda: application.snapshot().activity.depth == 0)
    pool = application._engine._client._http._transport._pool  # type: ignore[attr-defined]
    until(lambda: "Requests: 0 active, 0 queued" in repr(pool))
    until(lambda: all(one.is_idle() or one.is_closed() for one in pool.connections))
    assert application.submit(PICTURE, "a").result(30).label == "Yes"


def test_a_request_ends_at_its_deadline_here_and_there(
    engine: tuple[ScriptedApplication, Front], over: Over
) -> None:
    scripted, front = engine
    application = over(base(front), timeout=0.5)
    scripted.hold = True
    verdict = application.submit(PICTURE, "held").result(30)
    assert verdict.reason == "timeout"
    until(lambda: scripted.futures[-1].cancelled())
    assert application.snapshot().activity.counts["timeout"] == 1


def test_a_stop_answers_what_is_on_its_way_and_ends_it_at_the_engine(
    engine: tuple[ScriptedApplication, Front], over: Over
) -> None:
    scripted, front = engine
    application = over(base(front))
    scripted.hold = True
    held = application.submit(PICTURE, "held")
    until(lambda: scripted.seen[-1]["texts"] == ["held"])
    assert application.supervisor.stop(0.0)
    assert held.result(0).reason == "stopping"
    assert application.submit(PICTURE, "late").result(0).reason == "stopping"
    until(lambda: scripted.futures[-1].cancelled())


def test_a_connection_that_breaks_before_the_answer_is_tried_once_more(over: Over) -> None:
    with answering() as engine:
        application = over(engine.url)
        engine.judge[:] = [None, judged("Yes")]
        assert application.submit(PICTURE, "a").result(30).label == "Yes"
        assert engine.calls == 2
        engine.judge[:] = [None, None, judged("Yes")]
        assert application.submit(PICTURE, "a").result(30).reason == Refusal.NO_INSTANCE
        assert engine.calls == 4, "a picture that kills its engine kills two at most"


def test_a_full_page_refuses_and_one_caller_leaves_room(
    engine: tuple[ScriptedApplication, Front], over: Over
) -> None:
    scripted, front = engine
    application = over(base(front), queue_size=4)
    scripted.hold = True
    one = [application.submit(PICTURE, "held", caller="one") for _ in range(4)]
    assert [future.done() for future in one] == [False, False, False, True]
    assert one[3].result().code == Refusal.CALLER_LIMIT
    other = [application.submit(PICTURE, "held", caller="other") for _ in range(2)]
    assert [future.done() for future in other] == [False, True]
    assert other[1].result().code == Refusal.QUEUE_FULL
    assert application.snapshot().activity.refusal is Refusal.QUEUE_FULL
    for future in (*one, *other):
        future.cancel()
    until(lambda: application.snapshot().activity.depth == 0)


def test_pictures_on_their_way_are_bounded_in_bytes_and_free_them(
    engine: tuple[ScriptedApplication, Front], over: Over, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.remote.intake.MEMORY_BYTES", 1000)
    scripted, front = engine
    application = over(base(front), max_bytes=200)  # 1,000 bytes in all, 500 of one caller
    scripted.hold = True
    held = [application.submit(b"x" * 200, "held", caller="one") for _ in range(3)]
    assert [future.done() for future in held] == [False, False, True]
    assert held[2].result().code == Refusal.CALLER_LIMIT
    with pytest.raises(InputError) as refused:
        application.submit(b"x" * 201, "large", caller="two")
    assert refused.value.code == "image_bytes_too_large"
    for future in held:
        future.cancel()
    held.clear()
    until(lambda: application._intake._memory.used() == 0)  # type: ignore[attr-defined]


def test_the_text_too_long_for_the_page_never_leaves_it(
    engine: tuple[ScriptedApplication, Front], over: Over
) -> None:
    scripted, front = engine
    application = over(base(front), max_chars=20)
    before = len(scripted.seen)
    with pytest.raises(InputError) as refused:
        application.submit(PICTURE, "x" * 21)
    assert (refused.value.code, refused.value.facts["limit"]) == ("text_too_long", 20)
    assert not [one for one in scripted.seen[before:] if one["texts"] == ["x" * 21]]


def test_calls_run_side_by_side(engine: tuple[ScriptedApplication, Front], over: Over) -> None:
    scripted, front = engine
    application = over(base(front), queue_size=20)
    scripted.hold = True
    futures = [application.submit(PICTURE, f"held {number}", caller=str(number)) for number in range(20)]
    until(lambda: len({one["texts"][0] for one in scripted.seen if "held" in one["texts"][0]}) == 20)
    assert threading.active_count() < 200
    for future in futures:
        future.cancel()
