"""What the page believes of its engine: one failed look proves nothing, and any engine answers the probe."""

from __future__ import annotations

import logging

import pytest

from service.contract.causes import Refusal
from tests.api.serving import PICTURE, base, serving
from tests.applications import Build, make
from tests.fakes import FakePredictor, clock, events, until
from tests.remote.answering import MODEL, Raw, answer, answering
from tests.remote.conftest import Over

__all__ = ["clock", "events", "make"]


@pytest.mark.parametrize(
    ("language", "takes_premise"), [("zh", None), ("zh", True), ("en", True), ("en", False), (None, None)]
)
def test_an_engine_of_any_language_and_prompt_answers_the_probe(
    over: Over, make: Build, language: str | None, takes_premise: bool | None
) -> None:
    model = FakePredictor()
    model.language, model.takes_premise = language, takes_premise
    engine = make(model)
    engine.supervisor.load()
    until(lambda: engine.report().ready.ok)
    with serving(engine) as front:
        evidence = over(base(front)).snapshot().evidence
    assert (evidence.proven_by, evidence.probes, evidence.failure) == ("probe", 1, None)


def test_one_failed_look_refuses_nobody_and_two_do(over: Over, caplog: pytest.LogCaptureFixture) -> None:
    looks: list[bool] = []
    broken: list[None] = []
    with answering() as engine:
        as_scripted = engine.reply

        def reply(head: str, body: bytes) -> Raw:
            if not head.startswith("GET "):
                return as_scripted(head, body)
            looks.append(bool(broken))
            return broken.pop() if broken else as_scripted(head, body)

        engine.reply = reply  # type: ignore[method-assign]
        application = over(engine.url)
        with caplog.at_level(logging.ERROR, "service.remote"):
            broken += [None, None]  # of one look, which is tried twice
            until(lambda: any(looks))
            after = len(looks) + 3
            while len(looks) < after:
                assert application.submit(PICTURE, "a").result(30).reason is None
                assert application.report().ready.ok
            assert "ENGINE_UNUSABLE" not in caplog.text
        broken += [None] * 100_000
        until(lambda: application.report().ready.reason == Refusal.NO_INSTANCE)
        assert application.submit(PICTURE, "a").result(30).reason == Refusal.NO_INSTANCE
        broken.clear()
        until(lambda: application.report().ready.ok)


def test_the_end_of_loading_is_seen_soon(over: Over, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering() as engine:
        engine.model = answer({**MODEL, "state": "loading", "ready": False})
        monkeypatch.setattr("service.remote.watch.POLL_SECONDS", 3600.0)
        application = over(engine.url, ready=False)
        until(lambda: application.report().ready.reason == Refusal.LOADING)
        engine.model = answer(MODEL)
        until(lambda: application.report().ready.ok)
