"""Whatever else answers behind --engine is an error with a log line: never a verdict, never read without
end."""

from __future__ import annotations

import json
import logging
import socketserver
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from service.build import Application
from service.contract.causes import Refusal
from service.contract.errors import InvalidTexts
from tests.api.serving import PICTURE
from tests.fakes import until
from tests.remote.answering import MODEL, SCORES, Raw, answer, answering, judged
from tests.remote.conftest import Over

ENDLESS: Final = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\n\r\n" + b"[" * (64 << 20)


def one(**changes: Any) -> bytes:
    """Return the answer with one verdict that is changed like this."""
    result = {"label": "Yes", "score": 0.9, "scores": SCORES, "reason": None, **changes}
    return answer({"results": [result]})


ODD: Final[dict[str, bytes]] = {
    "a page": answer(b"<html>Welcome to nginx</html>", kind="text/html"),
    "not found": answer({"error": "no such path"}, 404),
    "a proxy's error": answer(b"<html>Bad Gateway</html>", 502, kind="text/html"),
    "a redirect": answer(b"", 302, "location: http://127.0.0.1:1/elsewhere"),
    "a list": answer([1, 2]),
    "no results": answer({"id": None}),
    "one result too many": judged("Yes", "Yes"),
    "no result": answer({"results": []}),
    "not a number": answer(
        b'{"results": [{"label": "Yes", "reason": null, "scores": {"Yes": NaN, "No": 0, "Maybe": 0}}]}'
    ),
    "a number of 400 digits": one(scores={**SCORES, "Yes": 10**400}),
    "another label": one(label="No"),
    "an unknown label": one(scores={"Yes": 0.9, "No": 0.1}),
    "a reason": one(reason="busy"),
    "a score of 9": one(scores={**SCORES, "Yes": 9.0}),
    "an unknown decision": one(calibrated=SCORES, decision="perhaps"),
    "an unknown code": answer({"code": "teapot"}, 418),
    "deep": answer(b"[" * 100_000),
    "endless": ENDLESS,
    "compressed": answer(b"\x1f\x8b\x08", 200, "content-encoding: gzip"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_answer_is_an_error(over: Over, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with answering() as engine, caplog.at_level(logging.ERROR, "service.remote"):
        application = over(engine.url)
        engine.judge = [ODD[name]]
        verdicts = [application.submit(PICTURE, "a").result(30) for _ in range(3)]
    assert {verdict.reason for verdict in verdicts} == {"error"}
    lines = [line for line in caplog.messages if line.startswith("ENGINE_ANSWER | ")]
    assert len(lines) == 1, "one line a minute, not one a request"
    assert "nginx" not in lines[0]


def test_codes_of_texts_that_are_none_are_skipped(over: Over) -> None:
    with answering() as engine:
        application = over(engine.url)
        errors = [{"index": 0, "code": ["no_text"]}, {"index": 0, "code": "no_text"}]
        engine.judge = [answer({"code": "no_text", "errors": errors, "facts": {"limit": 10**400}}, 400)]
        with pytest.raises(InvalidTexts) as refused:
            application.submit(PICTURE, "a").result(30)
    assert (refused.value.errors, refused.value.facts) == ([(0, "no_text")], {})


def test_an_error_of_tls_after_the_handshake_is_no_engine(
    over: Over, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that demands a certificate of the client says so only then."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 2"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *subject], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate)

    class Demanding(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                context.wrap_socket(self.request, server_side=True).recv(10)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Demanding) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        application = over(f"https://127.0.0.1:{server.server_address[1]}", ready=False)
        until(lambda: application.snapshot().evidence.probes > 1)
        _lives_on(application)
        assert application.report().ready.reason == Refusal.NO_INSTANCE
        application.supervisor.stop(0.0)
        server.shutdown()


def test_a_verdict_with_a_calibration_is_complete(over: Over) -> None:
    calibrated = {"Yes": 0.7, "No": 0.2, "Maybe": 0.1}
    with answering() as engine:
        application = over(engine.url)
        engine.judge = [one(calibrated=calibrated, decision="review")]
        verdict = application.submit(PICTURE, "a").result(30)
    assert (verdict.label, verdict.scores, verdict.reason) == ("Yes", SCORES, None)
    assert (verdict.calibrated, verdict.decision) == (calibrated, "review")
    assert (verdict.device, verdict.dtype) == ("cpu", "fp32")


NO_ENGINE: Final[dict[str, Raw]] = {
    "a page": ODD["a page"],
    "not found": ODD["not found"],
    "a redirect": ODD["a redirect"],
    "endless": ENDLESS,
    "other labels": answer({**MODEL, "labels": ["cat", "dog"]}),
    "an unknown state": answer({**MODEL, "state": "asleep"}),
    "no limits": answer({name: value for name, value in MODEL.items() if not name.startswith("max")}),
    **{f"a calibration of {odd}": answer({**MODEL, "calibration": odd}) for odd in (None, "none", ["none"])},
    "a limit of 400 digits": answer({**MODEL, "max_bytes": 10**400}),
    "a name with a line feed": answer({**MODEL, "model": "demo\nFATAL | x"}),
    "a page that reaches no engine": answer({**MODEL, "state": "uninitialized", "model": ""}),
    "nothing": None,
}


@pytest.mark.parametrize("name", NO_ENGINE)
def test_what_is_no_engine_makes_the_page_unready_and_unhealthy(
    over: Over, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line when it begins and one when it ends."""
    with answering() as engine, caplog.at_level(logging.INFO, "service.remote"):
        engine.model = NO_ENGINE[name]
        application = over(engine.url, ready=False)
        until(lambda: not application.report().ready.ok and "ENGINE_UNUSABLE" in caplog.text)
        _lives_on(application)
        report = application.report()
        assert (report.ready.reason, report.healthy) == (Refusal.NO_INSTANCE, False)
        assert report.details["model"] == "uninitialized"
        engine.model = answer(MODEL)
        until(lambda: application.report().healthy)
    assert _events(caplog)[:2] == ["ENGINE_UNUSABLE", "ENGINE_REACHED"]


@pytest.mark.parametrize(
    ("state", "ready", "reason"),
    [
        ("loading", False, Refusal.LOADING),
        ("failed", False, Refusal.LOADING),
        ("loaded", False, Refusal.QUEUE_FULL),
    ],
)
def test_the_page_is_ready_when_the_engine_is(over: Over, state: str, ready: bool, reason: str) -> None:
    with answering() as engine:
        application = over(engine.url)
        engine.model = answer({**MODEL, "state": state, "ready": ready})
        until(lambda: not application.report().ready.ok)
        assert application.report().ready.reason == reason
        assert application.report().healthy == (state == "loaded"), "a full engine is healthy"
        verdict = application.submit(PICTURE, "a").result(30)
        assert verdict.reason == (None if state == "loaded" else "loading"), "the engine decides what is full"
        engine.model = answer(MODEL)
        until(lambda: application.report().ready.ok)


def test_the_page_gives_the_engines_reason(over: Over) -> None:
    with answering() as engine:
        engine.model = answer({**MODEL, "ready": False, "refusal": "stuck"})
        application = over(engine.url, ready=False)
        until(lambda: application.report().ready.reason == Refusal.STUCK)


def test_the_model_its_limits_and_its_calibration_are_the_engines(over: Over) -> None:
    used = {"state": "used", "temperature": 1.5, "accept": 0.9, "review": 0.6}
    with answering() as engine:
        engine.model = answer({**MODEL, "model": "other", "device": "cuda:0", "calibration": used})
        snapshot = over(engine.url).snapshot()
    assert (snapshot.model, snapshot.device, snapshot.dtype) == ("other", "cuda:0", "fp32")
    assert snapshot.calibration.calibration is not None
    assert snapshot.calibration.calibration.temperature == 1.5
    assert snapshot.remote is not None
    assert snapshot.remote.limits is not None
    assert snapshot.remote.limits.max_bytes == MODEL["max_bytes"]


def test_different_labels_of_the_probe_are_not_damage(over: Over) -> None:
    """Behind a proxy different models may answer."""
    with answering() as engine:
        application = over(engine.url, probe_interval=0.05)
        for label in ("Yes", "No", "Maybe") * 2:
            scores = {**dict.fromkeys(SCORES, 0.1), label: 0.8}
            result = {"label": label, "scores": scores, "reason": None}
            probed = application.snapshot().evidence.probes
            engine.probe = answer({"results": [result]})
            until(lambda before=probed: application.snapshot().evidence.probes > before + 1)  # type: ignore[misc]
        evidence = application.snapshot().evidence
        assert (evidence.unstable, application.snapshot().reloads) == (0, 0)
        assert application.report().healthy


def test_an_engine_that_fails_makes_the_page_unhealthy_and_nothing_is_reloaded(over: Over) -> None:
    with answering() as engine:
        application = over(engine.url, probe_interval=0.05)
        engine.probe = answer({"code": "error"}, 500)
        until(lambda: not application.report().healthy)
        for _ in range(5):
            probed = application.snapshot().evidence.probes
            until(lambda before=probed: application.snapshot().evidence.probes > before)  # type: ignore[misc]
        _lives_on(application)
        engine.probe = judged("Yes")
        until(lambda: application.report().healthy)


def _lives_on(application: Application) -> None:
    report = application.report()
    assert (report.live.ok, report.startup.ok, report.leaving) == (True, True, None)
    assert json.loads(json.dumps(report.as_dict()))["model"]["reloads"] == 0
    assert application.supervisor.dead_threads() == []


def _events(caplog: pytest.LogCaptureFixture) -> list[str]:
    events = [line.split(" | ")[0] for line in caplog.messages]
    return [event for event in events if event in ("ENGINE_UNUSABLE", "ENGINE_REACHED")]
