"""The operations tab over real HTTP: every call of it, with and without the right to make it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from page.access import GUESS_SECONDS, WRONG_PER_CALLER, Access
from page.operations import GUARDED, LOGIN, OperationsCalls
from service.status import Snapshot
from tests.instance import ROOT, Instance
from tests.web.application import READY, FakeDesk
from tests.web.client import Page, serving

PASSWORD = "open sesame"
SECONDS = 400.0  # a bound for a broken run on a busy machine, never a measurement
JSON = {"content-type": "application/json"}
# Words that only those who may see the tab are shown.
SHOWN = ("req_1_ab", "is hung", 'class="plot-line', "Requests take longer")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """On a public address, with a password."""
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


def within(access: Access, snapshot: Snapshot, *posts: tuple[str, str | bytes]) -> list[httpx.Response]:
    """The answers to calls made in this process, where no guess of another test counts."""
    app = FastAPI(openapi_url=None)
    calls = OperationsCalls(FakeDesk(lambda: snapshot), access, 7860)
    calls.add_to(app)

    async def conversation() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return [await client.post(path, content=body, headers=JSON) for path, body in posts]

    try:
        return asyncio.run(conversation())
    finally:
        calls.close()


# ---- without the right to ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "cookie", [None, "", "guessed", "a" * 43], ids=["none", "empty", "short", "of the right length"]
)
def test_no_call_answers_without_a_session(client: httpx.Client, path: str, cookie: str | None) -> None:
    if cookie is not None:
        client.cookies.set(f"ofa_ops_{client.base_url.port}", cookie)
    answer = ask(client, path)
    assert answer.status_code == 401
    assert set(answer.json()) == {"html"}
    assert [word for word in SHOWN if word in answer.text] == []


@pytest.mark.parametrize("path", GUARDED)
def test_a_call_that_says_it_comes_from_this_machine_is_no_session(client: httpx.Client, path: str) -> None:
    claims = {"x-forwarded-for": "127.0.0.1", "host": "localhost", "x-real-ip": "127.0.0.1"}
    assert ask(client, path, {**JSON, **claims}).status_code == 401


def test_nothing_of_the_tab_can_be_had_through_gradio(locked: Page) -> None:
    """Its own doors: what it says of its API and its components, and every event by its number."""
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
                told = "".join(stream.iter_text())
            assert [word for word in SHOWN if word in told] == []


def test_gradios_client_finds_no_call_of_the_tabs(locked: Page) -> None:
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
        b"\xff",
    ],
    ids=repr,
)
def test_only_the_password_is_the_password(body: str | bytes) -> None:
    answer, right = within(
        Access(PASSWORD), READY, (LOGIN, body), (LOGIN, json.dumps({"password": PASSWORD}))
    )
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert (right.status_code, "set-cookie" in right.headers) == (200, True)


def test_a_form_of_a_strangers_page_is_not_read(client: httpx.Client, running_service: Instance) -> None:
    """A browser posts a form to any address, with its cookies; JSON it would have to ask for first."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post(LOGIN, content=f"password={PASSWORD}", headers=form).status_code == 415
    with httpx.Client(base_url=running_service.page, timeout=60) as own:
        assert own.post("/ops/probe", content="{}", headers={"content-type": "text/plain"}).status_code == 415
        asked = {"origin": "http://127.0.0.1:9", "access-control-request-method": "POST"}
        answer = own.options("/ops/probe", headers=asked)
        assert answer.status_code == 405
        assert "access-control-allow-origin" not in answer.headers


# ---- with it -------------------------------------------------------------------------------------------


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
    assert "立即探测" in parts["buttons"]
    assert "健康" in parts["facts"]


def test_a_session_may_ask_for_a_probe_and_hears_that_there_is_no_gpu(operator: httpx.Client) -> None:
    asked = ask(operator, "/ops/probe")
    assert (asked.status_code, asked.json()["told"]) == (200, "A probe is on its way.")
    refused = ask(operator, "/ops/cache")
    assert (refused.status_code, refused.json()["told"]) == (
        409,
        "There is no GPU whose cache could be emptied.",
    )


def test_a_session_that_logged_out_is_over_though_its_cookie_lives(operator: httpx.Client) -> None:
    with httpx.Client(base_url=operator.base_url, timeout=60) as other:
        assert log_in(other).status_code == 200
        kept = dict(other.cookies)
        assert ask(other, "/ops/logout").status_code == 200
        other.cookies.clear()
        other.cookies.update(kept)
        assert ask(other, "/ops/panel").status_code == 401
    assert ask(operator, "/ops/panel").status_code == 200


def test_guessing_is_slowed_down_and_written_down_without_the_guesses(
    locked: Page, operator: httpx.Client
) -> None:
    elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")  # an address of its own has guesses of its own
    with httpx.Client(base_url=locked.base, timeout=60, transport=elsewhere) as other:
        statuses = [log_in(other, f"guess number {n}").status_code for n in range(WRONG_PER_CALLER)]
        assert statuses == [401] * WRONG_PER_CALLER
        answer = log_in(other)
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= GUESS_SECONDS
    assert ask(operator, "/ops/panel").status_code == 200, "who is in stays in"
    assert log_in(operator).status_code == 200, "who did not guess may come in"
    assert "guess number" not in locked.output
    assert PASSWORD not in locked.output


def test_a_gpus_cache_can_be_emptied() -> None:
    (answer,) = within(Access(None), replace(READY, device="cuda:0"), ("/ops/cache", "{}"))
    assert (answer.status_code, answer.json()["told"]) == (200, "5 MB were given back.")


# ---- this machine alone --------------------------------------------------------------------------------


def test_without_a_password_this_machine_sees_the_tab_and_what_is_passed_on_does_not(
    running_service: Instance,
) -> None:
    with httpx.Client(base_url=running_service.page, timeout=60) as client:
        parts = ask(client, "/ops/panel").json()["parts"]
        assert "<svg" in parts["plots"]
        assert "logout" not in parts["buttons"]
        for odd in ({"x-forwarded-for": "203.0.113.7"}, {"host": "page.example"}, {"forwarded": "for=x"}):
            for path in GUARDED:
                answer = ask(client, path, {**JSON, **odd})
                assert answer.status_code == 401, (path, odd)
                assert "OFA_OPS_PASSWORD_FILE" in answer.text


def test_the_real_service_shows_a_request_without_its_text(running_service: Instance) -> None:
    instance, secret = running_service, "xylophonist"
    picture = (ROOT / "models" / "demo" / "examples" / "existence.png").read_bytes()
    instance.judge(picture, f"there is a {secret}")
    with httpx.Client(base_url=instance.page, timeout=60) as client:
        instance.wait_for(
            "the request", lambda: "api" in ask(client, "/ops/panel").json()["parts"]["requests"]
        )
        instance.wait_for(
            "a sample", lambda: "plot-line" in ask(client, "/ops/panel").json()["parts"]["plots"]
        )
        told = ask(client, "/ops/panel").text + ask(client, "/ops/findings").text
    assert secret not in told


def test_the_real_service_probes_when_asked(running_service: Instance) -> None:
    def probes() -> int:
        return int(json.loads(running_service.get("/health")[1])["evidence"]["probes"])

    before = probes()
    with httpx.Client(base_url=running_service.page, timeout=60) as client:
        assert ask(client, "/ops/probe").status_code == 200
    running_service.wait_for("a probe", lambda: probes() > before)
