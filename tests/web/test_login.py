"""The page behind a login and API keys, over real HTTP."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from page.access import GUESS_SECONDS, WRONG_PER_CALLER
from page.gate import HEADERS
from page.login import LOGIN, LOGOUT
from page.words import say
from service.api_keys import make
from tests.fakes import PATIENCE
from tests.web.client import Page, call, serving, upload

PASSWORD = "open sesame"
PICTURE = b"not decoded by anything in front of the application"
SECONDS = 400.0  # a bound for a broken run on a busy machine, never a measurement
COOKIE = re.compile(r"ofa_page_\d+=([\w-]{43}); (.*)")
CLOSED = {
    "GET": (
        *("/config", "/status", "/example/0", "/ops/panel", "/gradio_api/info", "/gradio_api/app_id"),
        *(
            "/gradio_api/queue/data?session_hash=a",
            "/gradio_api/call/judge/a",
            "/gradio_api/file=/etc/passwd",
        ),
        *("/gradio_api/heartbeat/a", "/gradio_api/startup-events", "/gradio_api/upload_progress?upload_id=a"),
    ),
    "POST": (
        *("/gradio_api/queue/join", "/gradio_api/call/judge", "/gradio_api/call/v2/judge", "/ops/login"),
        *("/gradio_api/upload", "/gradio_api/cancel", "/gradio_api/reset"),
    ),
}


class Locked(NamedTuple):
    """A page with a password and the keys ``shop``, ``few`` (2 a minute) and ``one`` (1 at once)."""

    page: Page
    file: Path
    shop: str
    few: str
    one: str

    def client(self, address: str = "", **headers: str) -> httpx.Client:
        """Return a client, behind a trusted proxy at ``address``: wrong passwords count by address."""
        sent = {"x-forwarded-for": address, **headers} if address else headers
        return httpx.Client(base_url=self.page.base, timeout=PATIENCE, headers=sent)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("locked")
    password, file = folder / "password", folder / "keys"
    password.write_text(f"{PASSWORD}\n")
    keys = [make(file, "shop", 10_000, 100), make(file, "few", 2, 100), make(file, "one", 10_000, 1)]
    flags = ["--page-password-file", str(password), "--api-keys-file", str(file)]
    with serving(folder, *flags, "--trusted-proxies", "127.0.0.1") as page:
        yield Locked(page, file, *keys)


def log_in(client: httpx.Client, password: Any = PASSWORD, **headers: str) -> httpx.Response:
    return client.post(LOGIN, json={"password": password}, headers=headers)


async def judged(client: httpx.AsyncClient, text: str = "a dog") -> tuple[str, Any]:
    return await call(client, await upload(client, PICTURE), text, None)


# ---- without a session or a key ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"), [(method, path) for method, paths in CLOSED.items() for path in paths]
)
@pytest.mark.parametrize("headers", [{}, {"x-api-key": "guessed"}, {"cookie": "ofa_page_1=guessed"}])
def test_nothing_is_answered(locked: Locked, method: str, path: str, headers: dict[str, str]) -> None:
    content = b"{}" if method == "POST" else None
    with locked.client() as client:
        answer = client.request(
            method, path, content=content, headers={"content-type": "application/json", **headers}
        )
    assert answer.status_code == 401
    assert answer.json()["code"] == ("wrong_key" if "x-api-key" in headers else "no_key")
    assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_a_browser_is_sent_to_the_login_and_gets_what_that_needs(locked: Locked) -> None:
    with locked.client() as client:
        sent = client.get("/")
        assert (sent.status_code, sent.headers["location"]) == (303, LOGIN)
        for path in (LOGIN, "/favicon.ico", "/theme.css", "/robots.txt"):
            assert client.get(path).status_code == 200, path


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_login_page_is_in_the_browsers_language(locked: Locked, language: Any) -> None:
    with locked.client() as client:
        answer = client.get(LOGIN, headers={"accept-language": language})
    assert f'<html lang="{language}">' in answer.text
    assert say(language, "login.text") in answer.text
    assert "$" not in answer.text
    for name, value in HEADERS:
        assert answer.headers[name.decode()] == value.decode()
    assert answer.headers["cache-control"] == "no-store"


# ---- the login -----------------------------------------------------------------------------------------


def test_the_password_opens_the_page_until_the_logout(locked: Locked) -> None:
    with locked.client() as client:
        answer = log_in(client)
        assert answer.status_code == 200
        found = COOKIE.fullmatch(answer.headers["set-cookie"])
        assert found
        assert set(found[2].lower().split("; ")) == {"httponly", "samesite=strict", "path=/"}
        for path in ("/", "/config", "/status"):
            assert client.get(path).status_code == 200, path
        assert client.get("/ops/panel").status_code == 401, "the operations tab has a password of its own"
        cookie = {"cookie": f"{answer.headers['set-cookie'].split(';')[0]}"}
        assert client.post(LOGOUT, json={}).status_code == 200
        assert client.get("/status", headers=cookie).status_code == 401
    assert found[1] not in locked.page.output


def test_a_session_judges_as_its_address(locked: Locked) -> None:
    async def conversation(client: httpx.AsyncClient) -> Any:
        client.headers["x-forwarded-for"] = "203.0.113.20"
        assert (await client.post(LOGIN, json={"password": PASSWORD})).status_code == 200
        _, answer = await judged(client, "tell")
        return json.loads(answer["reason"])["caller"]

    assert locked.page.run(conversation) == "203.0.113.20"


def test_behind_tls_the_cookie_is_restricted_to_it(locked: Locked) -> None:
    with locked.client("203.0.113.21", **{"x-forwarded-proto": "https"}) as client:
        assert "secure" in log_in(client).headers["set-cookie"].lower()


@pytest.mark.parametrize("password", ["", "guess", f"{PASSWORD} ", None, 7, [PASSWORD]])
def test_another_password_opens_nothing(locked: Locked, password: Any) -> None:
    with locked.client(f"203.0.113.{100 + len(str(password))}") as client:
        answer = log_in(client, password)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert answer.json()["message"] == say("en", "ops.login.wrong")


def test_wrong_passwords_lock_out_their_caller_alone(locked: Locked) -> None:
    with locked.client("203.0.113.30") as guesser, locked.client("203.0.113.31") as other:
        for _ in range(WRONG_PER_CALLER):
            assert log_in(guesser, "a guess").status_code == 401
        answer = log_in(guesser)
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= GUESS_SECONDS
        assert log_in(other).status_code == 200
    assert "PAGE_LOGIN | ACTION=wrong_password | FROM=203.0.113.30" in locked.page.output
    assert "a guess" not in locked.page.output


@pytest.mark.parametrize("path", [LOGIN, LOGOUT])
def test_a_page_of_another_site_logs_nobody_in_or_out(locked: Locked, path: str) -> None:
    with locked.client() as client:
        log_in(client)
        crossed = client.post(path, json={"password": PASSWORD}, headers={"origin": "http://evil.example"})
        form = client.post(path, data={"password": PASSWORD})
        assert (crossed.status_code, form.status_code) == (403, 415)
        assert client.get("/status").status_code == 200


def test_a_session_counts_for_no_page_of_another_origin(locked: Locked) -> None:
    with locked.client() as client:
        log_in(client)
        answer = client.post(
            "/gradio_api/reset", json={"event_id": "a"}, headers={"origin": "http://evil.example"}
        )
        assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin")


# ---- keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x-api-key", "authorization"])
def test_a_program_asks_with_its_key_and_is_known_by_its_name(locked: Locked, name: str) -> None:
    async def conversation(client: httpx.AsyncClient) -> Any:
        client.headers[name] = locked.shop if name == "x-api-key" else f"Bearer {locked.shop}"
        kind, answer = await judged(client)
        assert (kind, answer["label"]) == ("complete", "Yes")
        _, answer = await judged(client, "tell")
        return json.loads(answer["reason"])["caller"]

    assert locked.page.run(conversation) == "shop"
    assert locked.shop not in locked.page.output


def test_gradios_client_asks_with_a_key(locked: Locked, tmp_path: Path) -> None:
    script = """
import sys
from gradio_client import Client, handle_file
client = Client(sys.argv[1], headers={"X-API-Key": sys.argv[2]}, verbose=False)
print(client.predict(handle_file(sys.argv[3]), "a dog", None, api_name="/judge")["label"])
"""
    (tmp_path / "picture.png").write_bytes(PICTURE)
    for key, label in ((locked.shop, "Yes"), ("guessed", "")):
        done = subprocess.run(
            [sys.executable, "-c", script, locked.page.base, key, str(tmp_path / "picture.png")],
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.stdout.strip() == label, done.stderr


def test_calls_over_a_keys_minute_are_refused_with_the_time_to_wait(locked: Locked) -> None:
    async def conversation(client: httpx.AsyncClient) -> httpx.Response:
        client.headers["x-api-key"] = locked.few
        picture = await upload(client, PICTURE)
        for _ in range(2):
            assert (await call(client, picture, "a dog", None))[0] == "complete"
        return await client.post("/gradio_api/call/judge", json={"data": [picture, "a dog", None]})

    answer = locked.page.run(conversation)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limit")
    assert 0 < int(answer.headers["retry-after"]) <= 60


def test_calls_over_a_keys_number_at_once_are_refused(locked: Locked) -> None:
    async def conversation(client: httpx.AsyncClient) -> tuple[Any, Any, Any]:
        client.headers["x-api-key"] = locked.one
        picture = await upload(client, PICTURE)
        joined = await client.post("/gradio_api/call/judge", json={"data": [picture, "hold", None]})
        give_up = time.monotonic() + PATIENCE
        while "waiting" not in locked.page.output and time.monotonic() < give_up:
            await client.get("/robots.txt")
        over = await call(client, picture, "a dog", None)
        client.headers["x-api-key"] = locked.shop
        await call(client, picture, "release", None)
        client.headers["x-api-key"] = locked.one
        held = await client.get(f"/gradio_api/call/judge/{joined.json()['event_id']}")
        return over, held.text, await call(client, picture, "a dog", None)

    (kind, error), held, after = locked.page.run(conversation)
    assert (kind, error["title"]) == ("error", "concurrent_limit")
    assert "event: complete" in held
    assert after[0] == "complete", "the place is free again"


def test_a_key_can_be_added_and_revoked_while_the_page_serves(locked: Locked) -> None:
    def status_with(key: str, wanted: int) -> int:
        give_up = time.monotonic() + PATIENCE
        with locked.client(**{"x-api-key": key}) as client:
            while (status := client.get("/status").status_code) != wanted and time.monotonic() < give_up:
                pass
            return status

    before = locked.file.read_text()
    added = make(locked.file, "late")
    assert status_with(added, 200) == 200
    locked.file.write_text("not a key file\n")
    with locked.client(**{"x-api-key": added}) as client:
        while "OUTCOME=kept_old" not in locked.page.output:
            assert client.get("/status").status_code == 200
    locked.file.write_text(before)
    assert status_with(added, 401) == 401
    assert status_with(locked.shop, 200) == 200
    assert added not in locked.page.output


# ---- under a path, without keys --------------------------------------------------------------------------


def test_under_a_root_path_the_login_stays_below_it(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    flags = ["--page-password-file", str(password), "--root-path", "/vqa"]
    with serving(tmp_path, *flags) as page, httpx.Client(base_url=page.base, timeout=PATIENCE) as client:
        sent = client.get("/vqa/")
        assert (sent.status_code, sent.headers["location"]) == (303, "/vqa/login")
        answer = log_in(client)
        assert "path=/vqa" in answer.headers["set-cookie"].lower().split("; ")
        assert client.get("/vqa/status").status_code == 200
        assert client.get("/vqa/status", headers={"x-api-key": "any"}).status_code == 401
