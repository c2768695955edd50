"""The operations tab over real HTTP: every route, with and without a session."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from lab.instances.instance import ROOT, Instance
from page.access import GUESS_SECONDS, WRONG_PER_CALLER, Access
from page.operations.routes import GUARDED, LOGIN, OperationsRoutes
from page.words import say
from service.contract.status import Snapshot
from tests.web.application import READY, FakeOperationsService
from tests.web.client import Page, serving

PASSWORD = "open sesame"
SECONDS = 400.0  # a bound for a broken run on a busy machine, never a measurement
JSON = {"content-type": "application/json"}
# Shown only with a session.
SHOWN = ("req_1_ab", "is hung", 'class="plot-line', "Requests take longer")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page on a public address, with a password."""
    folder = tmp_path_factory.mktemp("locked")
    with serving(folder, "--host", "0.0.0.0", environment={"OFA_OPS_PASSWORD": PASSWORD}) as page:
        yield page


def ask(client: httpx.Client, path: str, headers: Mapping[str, str] = JSON) -> httpx.Response:
    method = GUARDED.get(path, "POST")
    return client.request(method, path, headers=dict(headers), content=b"{}" if method == "POST" else None)


def log_in(client: httpx.Client, password: Any = PASSWORD) -> httpx.Response:
    return client.post(LOGIN, json={"password": password})


@pytest.fixture
def client(locked: Page) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=locked.base, timeout=60) as client:
        yield client


def local_answers(
    access: Access, snapshot: Snapshot, *posts: tuple[str, str | bytes]
) -> list[httpx.Response]:
    """Return the answers of routes in this process, with their own count of wrong passwords."""
    app = FastAPI(openapi_url=None)
    calls = OperationsRoutes(FakeOperationsService(lambda: snapshot), access, 7860)
    calls.add_to(app)

    async def conversation() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return [await client.post(path, content=body, headers=JSON) for path, body in posts]

    try:
        return asyncio.run(conversation())
    finally:
        calls.close()


# ---- without a session ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "cookie", [None, "", "guessed", "a" * 43], ids=["none", "empty", "short", "of the right length"]
)
def test_no_route_answers_without_a_session(client: httpx.Client, path: str, cookie: str | None) -> None:
    if cookie is not None:
        client.cookies.set(f"ofa_ops_{client.base_url.port}", cookie)
    answer = ask(client, path)
    assert answer.status_code == 401
    assert set(answer.json()) == {"html"}
    assert [word for word in SHOWN if word in answer.text] == []


@pytest.mark.parametrize("path", GUARDED)
def test_a_claimed_local_address_does_not_replace_a_session(client: httpx.Client, path: str) -> None:
    claims = {"x-forwarded-for": "127.0.0.1", "host": "localhost", "x-real-ip": "127.0.0.1"}
    assert ask(client, path, {**JSON, **claims}).status_code == 401


def test_gradios_endpoints_return_nothing_of_the_tab(locked: Page) -> None:
    """Its API description, its components, and every event by number."""
    with httpx.Client(base_url=locked.base, timeout=60) as plain:
        api = plain.get("/gradio_api/info").json()
        assert set(api["named_endpoints"]) == {"/judge"}
        assert api["unnamed_endpoints"] == {}
        config = plain.get("/config").json()
        assert [word for word in (*SHOWN, PASSWORD) if word in json.dumps(config)] == []
        for number in (one["id"] for one in config["dependencies"]):
            asked = {"data": [None, "", None], "fn_index": number, "session_hash": f"mine{number}"}
            plain.post("/gradio_api/queue/join", json=asked)
            with plain.stream("GET", f"/gradio_api/queue/data?session_hash=mine{number}") as stream:
                streamed = "".join(stream.iter_text())
            assert [word for word in SHOWN if word in streamed] == []


def test_gradios_client_finds_no_route_of_the_tab(locked: Page) -> None:
    script = """
import sys
from gradio_client import Client
client = Client(sys.argv[1], verbose=False)
for name in sys.argv[2:]:
    try:
        print(client.predict(api_name=name))
    except Exception as error:
        print(type(error).__name__)
"""
    names = [name for path in (*GUARDED, LOGIN) for name in (path, f"/{path.rpartition('/')[2]}")]
    done = subprocess.run(
        [sys.executable, "-c", script, locked.base, *names],
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    assert done.stdout.split() == ["ValueError"] * len(names)


@pytest.mark.parametrize(
    "body",
    [
        *(json.dumps({"password": said}) for said in ("", "x", f"{PASSWORD} ", PASSWORD.upper(), None, 7)),
        *("", "{", "[]", "null", "{}", json.dumps(PASSWORD), json.dumps({"password": [PASSWORD]})),
        *("[" * 200_000, '{"password":' * 200_000, "9" * 100_000, '{"password": "\\ud800"}'),
        b"\xff",
    ],
    ids=lambda body: repr(body)[:40],
)
def test_only_the_password_is_the_password(body: str | bytes) -> None:
    answer, right = local_answers(
        Access(PASSWORD), READY, (LOGIN, body), (LOGIN, json.dumps({"password": PASSWORD}))
    )
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert (right.status_code, "set-cookie" in right.headers) == (200, True)


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "", "application/jsonx"])
def test_a_cross_site_form_is_refused(operator: httpx.Client, kind: str) -> None:
    """A browser posts a cross-site form with cookies, but JSON only after a CORS preflight."""
    for path in (LOGIN, *(path for path, method in GUARDED.items() if method == "POST")):
        answer = operator.post(
            path, content=json.dumps({"password": PASSWORD}), headers={"content-type": kind}
        )
        assert answer.status_code == 415
    asked = {"origin": "http://127.0.0.1:9", "access-control-request-method": "POST"}
    answer = operator.options("/ops/probe", headers=asked)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1:9",
        "",
        "file://",
        "ftp://{host}",
        "http://{host}.",
        "http://{host}@evil.example",
    ],
)
def test_a_cross_origin_call_is_refused(operator: httpx.Client, origin: str) -> None:
    origin = origin.format(host=operator.base_url.netloc.decode())
    for path in (LOGIN, *(path for path, method in GUARDED.items() if method == "POST")):
        assert ask(operator, path, {**JSON, "origin": origin}).status_code == 403
    assert ask(operator, "/ops/panel").status_code == 200, "the session still exists"


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://{host}", None),
        ("http://page.example", "page.example"),
        ("http://page.example", "page.example:80"),
        ("https://page.example", "page.example"),
        ("https://page.example", "PAGE.example:443"),
        ("https://page.example:8443", "page.example:8443"),
        ("http://[::1]:7860", "[::1]:7860"),
    ],
)
def test_a_same_origin_call_is_answered(operator: httpx.Client, origin: str, host: str | None) -> None:
    headers = {
        "origin": origin.format(host=operator.base_url.netloc.decode()),
        **({"host": host} if host else {}),
    }
    headers |= {"cookie": "; ".join(f"{name}={value}" for name, value in operator.cookies.items())}
    assert ask(operator, "/ops/probe", {**JSON, **headers}).status_code == 200


# ---- with a session --------------------------------------------------------------------------------------


@pytest.fixture
def operator(client: httpx.Client) -> httpx.Client:
    """Logged in."""
    answer = log_in(client)
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert re.fullmatch(r"ofa_ops_\d+=[\w-]{43}; HttpOnly; Path=/; SameSite=strict", cookie)
    return client


def test_a_session_sees_the_tab(operator: httpx.Client) -> None:
    answer = operator.get("/ops/panel")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    parts = answer.json()["parts"]
    assert "req_1_ab" in parts["requests"]
    assert "is hung" in parts["restarts"]
    assert parts["plots"].count("<svg") == 6
    assert "Requests take longer" in operator.get("/ops/findings").json()["parts"]["findings"]


def test_the_tab_speaks_the_browsers_language(operator: httpx.Client) -> None:
    parts = operator.get("/ops/panel", headers={"accept-language": "zh-CN"}).json()["parts"]
    assert say("zh", "ops.probe.button") in parts["buttons"]
    assert say("zh", "ops.healthy") in parts["facts"]


def test_a_session_can_start_a_probe_and_gets_a_refusal_without_a_gpu(operator: httpx.Client) -> None:
    asked = ask(operator, "/ops/probe")
    assert (asked.status_code, asked.json()["message"]) == (200, say("en", "ops.probe.done"))
    refused = ask(operator, "/ops/cache")
    assert (refused.status_code, refused.json()["message"]) == (409, say("en", "ops.cache.refused"))


def test_a_cookie_is_invalid_after_the_logout(operator: httpx.Client) -> None:
    with httpx.Client(base_url=operator.base_url, timeout=60) as other:
        assert log_in(other).status_code == 200
        kept = dict(other.cookies)
        assert ask(other, "/ops/logout").status_code == 200
        other.cookies.clear()
        other.cookies.update(kept)
        assert ask(other, "/ops/panel").status_code == 401
    assert ask(operator, "/ops/panel").status_code == 200


def through(page: Page, source: str) -> httpx.Client:
    """Return a client with its own source address, and so with its own count of wrong passwords."""
    transport = httpx.HTTPTransport(local_address=source)
    return httpx.Client(base_url=page.base, timeout=60, transport=transport)


def test_wrong_passwords_are_limited_and_logged_without_the_passwords(
    locked: Page, operator: httpx.Client
) -> None:
    with through(locked, "127.0.0.2") as other:
        statuses = [log_in(other, f"guess number {n}").status_code for n in range(WRONG_PER_CALLER)]
        assert statuses == [401] * WRONG_PER_CALLER
        answer = log_in(other)
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= GUESS_SECONDS
        assert "ACTION=too_many_guesses | FROM=127.0.0.2 | SECONDS=" in locked.output
    assert ask(operator, "/ops/panel").status_code == 200, "existing sessions stay valid"
    assert log_in(operator).status_code == 200, "other callers can log in"
    assert "guess number" not in locked.output
    assert PASSWORD not in locked.output


CLAIM = "203.0.113.9 | DONE=True\u00a0| FATAL    | forged"


def test_an_untrusted_forwarded_address_is_ignored(locked: Page) -> None:
    """Both for the limit and in the log."""
    with through(locked, "127.0.0.3") as other:
        for number in range(WRONG_PER_CALLER):
            headers = {"x-forwarded-for": f"10.0.0.{number}" if number else CLAIM.encode("latin-1")}
            assert other.post(LOGIN, json={"password": "no"}, headers=headers).status_code == 401
        assert (
            other.post(LOGIN, json={"password": "no"}, headers={"x-forwarded-for": "10.9.9.9"}).status_code
            == 429
        )
    assert "ACTION=wrong_password | FROM=127.0.0.3\n" in locked.output
    assert "forged" not in locked.output
    assert "10.0.0." not in locked.output


def test_behind_a_trusted_proxy_each_caller_has_its_own_limit(tmp_path: Path) -> None:
    """The proxy adds an address to what the caller sent, in the same line or in one of its own."""
    environment = {"OFA_OPS_PASSWORD": PASSWORD}
    with serving(tmp_path, "--trusted-proxies", "127.0.0.0/8", environment=environment) as page:
        with httpx.Client(base_url=page.base, timeout=60) as proxy:

            def guess(password: str, *forwarded: str) -> httpx.Response:
                headers = [("x-forwarded-for", value) for value in forwarded]
                return proxy.post(LOGIN, json={"password": password}, headers=headers)

            for number in range(WRONG_PER_CALLER):
                assert guess("no", f"198.51.100.{number}", "203.0.113.7").status_code == 401
            assert guess(PASSWORD, "198.51.100.77, 203.0.113.7").status_code == 429
            assert guess(PASSWORD, "203.0.113.7, 203.0.113.8").status_code == 200
        assert "ACTION=wrong_password | FROM=203.0.113.7\n" in page.output


@pytest.mark.parametrize(
    ("flags", "said", "secure"),
    [
        ((), "https", False),
        (("--trusted-proxies", "127.0.0.1"), "https", True),
        (("--trusted-proxies", "127.0.0.1"), "http", False),
    ],
)
def test_behind_tls_the_cookie_is_secure(
    tmp_path: Path, flags: tuple[str, ...], said: str, secure: bool
) -> None:
    environment = {"OFA_OPS_PASSWORD": PASSWORD, "OFA_ROOT_PATH": "/vqa"}
    with (
        serving(tmp_path, *flags, environment=environment) as page,
        httpx.Client(base_url=page.base, timeout=60) as client,
    ):
        answer = client.post(LOGIN, json={"password": PASSWORD}, headers={"x-forwarded-proto": said})
    cookie = answer.headers["set-cookie"]
    assert ("; Secure" in cookie) is secure
    assert "; Path=/vqa;" in cookie


def test_a_gpus_cache_can_be_emptied() -> None:
    login, answer = local_answers(
        *(Access(PASSWORD), replace(READY, device="cuda:0")),
        *((LOGIN, json.dumps({"password": PASSWORD})), ("/ops/cache", "{}")),
    )
    assert login.status_code == 200
    assert (answer.status_code, answer.json()["message"]) == (200, say("en", "ops.cache.done", megabytes=5))


# ---- the generated password --------------------------------------------------------------------------


@pytest.fixture
def own(running_service: Instance) -> Iterator[httpx.Client]:
    """A session of the real service, which generated its password."""
    with httpx.Client(base_url=running_service.page, timeout=60) as client:
        assert log_in(client, running_service.ops_password).status_code == 200
        yield client


def test_local_callers_need_the_password_too(running_service: Instance, own: httpx.Client) -> None:
    assert "<svg" in ask(own, "/ops/panel").json()["parts"]["plots"]
    with httpx.Client(base_url=running_service.page, timeout=60) as other:
        for path in GUARDED:
            assert ask(other, path).status_code == 401
    assert running_service.ops_password not in running_service.log + running_service.output
    assert str(running_service.run_dir / "ops_password") in running_service.log


def test_the_real_service_shows_a_request_without_its_text(
    running_service: Instance, own: httpx.Client
) -> None:
    instance, secret = running_service, "xylophonist"
    picture = (ROOT / "models" / "demo" / "examples" / "existence.png").read_bytes()
    instance.judge(picture, f"there is a {secret}")
    instance.wait_for("the request", lambda: "api" in ask(own, "/ops/panel").json()["parts"]["requests"])
    instance.wait_for("a sample", lambda: "plot-line" in ask(own, "/ops/panel").json()["parts"]["plots"])
    assert secret not in ask(own, "/ops/panel").text + ask(own, "/ops/findings").text


def test_the_real_service_probes_when_asked(running_service: Instance, own: httpx.Client) -> None:
    def probes() -> int:
        return int(json.loads(running_service.get("/health")[1])["evidence"]["probes"])

    before = probes()
    assert ask(own, "/ops/probe").status_code == 200
    running_service.wait_for("a probe", lambda: probes() > before)
