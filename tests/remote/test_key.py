"""The key of a page in front: where it goes, and whom the engine believes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from api.app import ApiSite
from lab import ROOT
from service.api_keys import ApiKeys, make, read
from service.contract.causes import Refusal
from service.contract.errors import SettingsError
from service.engine_key import EngineKey
from service.front import Front
from service.http.identity import Identity
from service.listening import Connections, listen, page_limits
from service.settings import Settings
from tests.api.serving import PICTURE, ScriptedApplication, base, serving
from tests.fakes import Clock, until
from tests.remote.answering import answer, answering
from tests.remote.conftest import Over
from tests.scaling import documented


@contextmanager
def keyed(scripted: ScriptedApplication, keys: Path) -> Iterator[Front]:
    """Serve the API to callers with a key."""
    front = Front(
        {"": ApiSite(scripted, Settings(), Identity(ApiKeys(keys)))},
        listen("127.0.0.1", 0, "--port"),
        Connections("page", page_limits()),
    )
    try:
        front.start()
        yield front
    finally:
        front.stop()


def written(folder: Path, key: str) -> Path:
    path = folder / "engine-key"
    path.write_text(f"{key}\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("trusted", [True, False])
def test_the_caller_is_believed_only_with_a_trusted_key(over: Over, tmp_path: Path, trusted: bool) -> None:
    scripted, keys = ScriptedApplication(), tmp_path / "keys"
    file = written(tmp_path, make(keys, "front", 90_000, 100, trusted=trusted))
    with keyed(scripted, keys) as front:
        application = over(base(front), engine_key_file=file)
        for caller in ("203.0.113.7", "2001:db8::/64", "shop", "203.0.113.7@behind", ""):
            application.submit(PICTURE, "a", caller=caller).result(30)
    callers = [one["caller"] for one in scripted.seen if one["texts"] == ["a"]]
    named = ["203.0.113.7@front", "2001:db8::/64@front", "shop@front", "203.0.113.7@behind@front", "front"]
    assert callers == (named if trusted else ["front"] * 5)


def test_without_keys_at_the_engine_nobody_is_believed(over: Over) -> None:
    scripted = ScriptedApplication()
    with serving(scripted) as front:
        over(base(front)).submit(PICTURE, "a", caller="203.0.113.7").result(30)
    assert scripted.seen[-1]["caller"] == "127.0.0.1"


def test_a_wrong_key_is_an_error_that_names_the_setting(
    over: Over, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A new key in the file is used without a restart."""
    keys = tmp_path / "keys"
    right = make(keys, "front", 90_000, 100)
    file = written(tmp_path, "ofa_wrong-key")
    with keyed(ScriptedApplication(), keys) as front, caplog.at_level(logging.INFO):
        application = over(base(front), ready=False, engine_key_file=file)
        until(lambda: "ENGINE_UNUSABLE" in caplog.text)
        assert application.submit(PICTURE, "a").result(30).reason == "error"
        assert application.report().ready.reason == Refusal.NO_INSTANCE
        assert "--engine-key-file" in caplog.text
        file.write_text(f"{right}\n")
        until(lambda: application.report().healthy)
        assert application.submit(PICTURE, "a").result(30).reason is None
    assert "wrong-key" not in caplog.text
    assert right not in caplog.text


def test_the_limits_of_the_key_are_busy_with_a_line_for_the_operator(
    over: Over, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tmp_path / "keys"
    file = written(tmp_path, make(keys, "front", 2, 100))
    with keyed(ScriptedApplication(), keys) as front, caplog.at_level(logging.ERROR, "service.remote"):
        application = over(base(front), engine_key_file=file)  # the probe was one of the two
        answers = [application.submit(PICTURE, "a").result(30) for _ in range(3)]
    assert [one.reason for one in answers] == [None, "busy", "busy"]
    assert all(one.retry_after and one.retry_after > 1 for one in answers[1:])
    (line,) = [line for line in caplog.messages if line.startswith("ENGINE_ANSWER")]
    assert "CODE=rate_limit" in line
    assert "--api-keys-file" in line


def test_a_probe_over_the_limit_of_the_key_has_failed(over: Over, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    key = make(keys, "front", 1, 100)
    with keyed(ScriptedApplication(), keys) as front:
        files, headers = {"image": PICTURE}, {"authorization": f"Bearer {key}"}
        sent = httpx.post(f"{base(front)}/v1/judge", data={"text": "a"}, files=files, headers=headers)
        assert sent.status_code == 200
        application = over(base(front), ready=False, engine_key_file=written(tmp_path, key))
        until(lambda: application.snapshot().evidence.failure is not None)
        assert not application.report().healthy


def test_the_key_goes_to_its_address_only(over: Over, tmp_path: Path) -> None:
    """Not to where a redirect leads, nor through a proxy of the environment, nor as another password."""
    file = written(tmp_path, "ofa_key")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    with pytest.MonkeyPatch.context() as patch, answering() as other, answering() as engine:
        patch.setenv("HTTP_PROXY", other.url)
        patch.setenv("NETRC", str(netrc))
        application = over(engine.url, engine_key_file=file)
        for status in (301, 302, 303, 307, 308):
            engine.judge = [answer(b"", status, f"location: {other.url}/v1/judge")]
            assert application.submit(PICTURE, "a").result(30).reason == "error"
        assert {head.count("authorization: Bearer ofa_key\r\n") for head in engine.heads} == {1}
    assert other.heads == []


def test_a_server_without_tls_or_with_an_unknown_certificate_is_not_reached(over: Over) -> None:
    with answering() as engine:
        application = over(engine.url.replace("http:", "https:"), ready=False)
        assert application.submit(PICTURE, "a").result(30).reason == Refusal.NO_INSTANCE
        assert engine.calls == 0


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        ("", 0o600),
        ("\nkey", 0o600),
        ("two words", 0o600),
        ("ké", 0o600),
        ("k" * 600, 0o600),
        ("s3cret", 0o644),
    ],
)
def test_a_key_file_that_is_open_to_others_or_without_a_key_is_refused(
    tmp_path: Path, content: str, mode: int
) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(SettingsError) as refused:
        EngineKey(path)
    assert refused.value.code == "engine_key"
    assert not content.strip() or content not in refused.value.sentence
    with pytest.raises(SettingsError):
        Settings.from_args(["--engine", "http://127.0.0.1:1", "--engine-key-file", str(path)], {})


def test_the_documented_command_makes_a_trusted_key_and_its_file(tmp_path: Path) -> None:
    for command in documented("(umask 077; python -m service.api_keys make front"):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PATH": path, "PYTHONPATH": str(ROOT)}
        subprocess.run(["bash", "-ec", command], cwd=tmp_path, env=environment, check=True)
    (key,) = read(tmp_path / "api-keys")
    assert key.trusted
    secret = EngineKey(tmp_path / "engine-key").current()
    assert ApiKeys(tmp_path / "api-keys").find(secret) == key


def test_a_key_file_that_cannot_be_read_any_more_keeps_the_last_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = Clock(), written(tmp_path, "first")
    key = EngineKey(path, clock=clock)
    os.unlink(path)
    clock.move(2.0)
    assert key.current() == "first"
    assert "OUTCOME=kept_old" in caplog.text
    written(tmp_path, "second")
    assert key.current() == "first", "looked at once a second"
    clock.move(2.0)
    assert key.current() == "second"
