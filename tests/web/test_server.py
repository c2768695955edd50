"""The page's server over real HTTP: what it accepts, what it refuses, how it stops."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from lab.instances.instance import START_SECONDS
from page.operations.routes import GUARDED, LOGIN
from page.words import LANGUAGES, Language, say
from service.http import bodies
from tests.web.application import SCORES
from tests.web.client import META, Page, call, serving, upload

PICTURE = b"not decoded by anything in front of the application"
SECRET = "xylophonist"  # a word that no message contains
MANY = 60  # more than Gradio's default concurrency


async def holds(page: Page) -> None:
    """Return when the application holds a request."""
    async with asyncio.timeout(START_SECONDS):
        while "waiting" not in page.output:
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    flags = ("--queue-size", str(MANY), "--max-bytes", "100000", "--timeout", "100", "--ops", "off")
    with serving(tmp_path_factory.mktemp("page"), *flags) as page:
        yield page


def test_a_call_returns_exactly_the_promised_answer(page: Page) -> None:
    async def conversation(client: httpx.AsyncClient) -> Any:
        return await call(client, await upload(client, PICTURE), "there is a circle", None)

    answer = {"label": "Yes", "score": 0.9, "scores": SCORES, "reason": None}
    assert page.run(conversation) == ("complete", answer)


def test_the_file_arrives_as_it_was_sent_and_nothing_opened_it_on_the_way(page: Page) -> None:
    async def conversation(client: httpx.AsyncClient) -> Any:
        return await call(client, await upload(client, PICTURE), "tell", "a premise")

    event, answer = page.run(conversation)
    handed = json.loads(answer["reason"])
    assert event == "complete"
    assert handed["sha"] == hashlib.sha256(PICTURE).hexdigest()
    assert (handed["premise"], handed["source"]) == ("a premise", "api")


def test_requests_wait_only_in_the_services_queue(page: Page) -> None:
    """The application answers none of them until it has seen all of them."""

    async def conversation(client: httpx.AsyncClient) -> list[str]:
        picture = await upload(client, PICTURE)
        calls = [call(client, picture, f"together {MANY}", None) for _ in range(MANY)]
        return [answer["label"] for _, answer in await asyncio.gather(*calls)]

    assert page.run(conversation) == ["Yes"] * MANY


@pytest.mark.parametrize("reason", ["busy", "timeout", "loading"])
def test_a_missing_verdict_is_an_answer_and_not_an_error(page: Page, reason: str) -> None:
    async def conversation(client: httpx.AsyncClient) -> Any:
        return await call(client, await upload(client, PICTURE), f"reason {reason}", None)

    answer = {"label": "Maybe", "score": 0.5, "scores": None, "reason": reason, "code": reason}
    assert page.run(conversation) == ("complete", answer)


@pytest.mark.parametrize(("header", "language"), [("en", "en"), ("zh-CN,zh;q=0.9", "zh")])
def test_an_input_error_is_in_the_callers_language(page: Page, header: str, language: Language) -> None:
    event, error = page.run(
        lambda client: call(client, None, "a circle", None, headers={"accept-language": header})
    )
    assert event == "error"
    assert error["error"] == say(language, "input.no_image")
    assert error["title"] == "no_image"


@pytest.mark.parametrize(
    "picture",
    [
        {"path": "/etc/hostname"},
        {"path": "/etc/hostname", "meta": META},
        {"path": "/etc/hostname", "meta": META, "is_stream": True},
        {"path": "/etc/passwd", "meta": META},
        {"path": "http://127.0.0.1:9/picture.png", "meta": META},
        {"path": "file:///etc/hostname", "meta": META},
        {"url": "data:image/png;base64,iVBORw0KGgo=", "meta": META},
        {"url": "http://127.0.0.1:9/picture.png", "meta": META},
        {"path": "\0", "meta": META},
        {"path": "x" * 5000, "meta": META},
        "a word",
        7,
        [],
    ],
    ids=lambda picture: str(picture)[:40],
)
def test_only_an_uploaded_file_is_accepted(page: Page, picture: Any) -> None:
    event, error = page.run(lambda client: call(client, picture, "a circle", None))
    assert event == "error"
    assert error["title"] in ("image_elsewhere", "bad_call")
    assert error["error"]


def test_a_program_gets_one_answer_and_no_pending_card(page: Page) -> None:
    """The pending card is for the page only."""

    async def conversation(client: httpx.AsyncClient) -> list[str]:
        asked = {"data": [await upload(client, PICTURE), "hold 3 6", None]}
        joined = (await client.post("/gradio_api/call/judge", json=asked)).json()["event_id"]
        answer = asyncio.create_task(client.get(f"/gradio_api/call/judge/{joined}"))
        await holds(page)
        await asyncio.sleep(1.0)  # longer than the page waits before its pending card
        await call(client, await upload(client, PICTURE), "release", None)
        return [line for line in (await answer).text.splitlines() if line.startswith("event:")]

    events = page.run(conversation)
    assert [event for event in events if event != "event: heartbeat"] == ["event: complete"]


def test_a_file_named_in_the_text_is_not_touched(page: Page) -> None:
    hidden = {"path": "/etc/hostname", "meta": META}
    event, error = page.run(lambda client: call(client, None, hidden, None))
    assert (event, error["title"]) == ("error", "bad_call")


@pytest.mark.parametrize("data", [[], [SECRET], [None, SECRET], [SECRET] * 3], ids=len)
def test_an_invalid_call_gets_a_hint_and_is_not_logged(page: Page, data: list[Any]) -> None:
    event, error = page.run(lambda client: call(client, *data))
    assert (event, error["title"]) == ("error", "bad_call")
    assert "data" in error["error"]
    assert SECRET not in page.output


def test_a_deleted_picture_must_be_uploaded_again(page: Page) -> None:
    async def conversation(client: httpx.AsyncClient) -> Any:
        picture = await upload(client, PICTURE, "gone.png")
        await asyncio.to_thread(Path(picture["path"]).unlink)
        return await call(client, picture, "a circle", None)

    event, error = page.run(conversation)
    assert (event, error["title"]) == ("error", "upload_gone")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_picture_of_the_previous_process_must_be_uploaded_again(tmp_path: Path, language: Language) -> None:
    async def conversation(client: httpx.AsyncClient) -> Any:
        return await call(client, picture, "a circle", None, headers={"accept-language": language})

    with serving(tmp_path) as page:
        picture = page.run(lambda client: upload(client, PICTURE))
        port = urlsplit(page.base).port
        page.process.kill()
    with serving(tmp_path, port=port) as page:
        event, error = page.run(conversation)
        assert (event, error["title"]) == ("error", "upload_gone")
        assert error["error"] == say(language, "input.upload_gone")
        assert "CALL_NOT_UNDERSTOOD" not in page.output


@pytest.mark.parametrize("way", ["", "/../../etc/hostname", "/x/../../../../../../etc/hostname"])
def test_a_folder_that_looks_like_an_earlier_one_opens_no_file(page: Page, tmp_path: Path, way: str) -> None:
    """The file is not read, and the answer does not depend on its existence."""
    secret = tmp_path / "ofa-page-1-x" / "picture.png"
    secret.parent.mkdir()
    secret.write_bytes(PICTURE)
    picture = {"path": f"{secret.parent if way else secret}{way}", "meta": META}
    event, error = page.run(lambda client: call(client, picture, "tell", None))
    assert (event, error["title"]) == ("error", "upload_gone")


def test_a_file_name_cannot_leave_the_upload_folder(page: Page) -> None:
    async def conversation(client: httpx.AsyncClient) -> Path:
        return Path((await upload(client, PICTURE, "../../../../tmp/évil name.png"))["path"])

    assert re.fullmatch(r"ofa-page-\d+-\w+", page.run(conversation).parent.parent.name)


def test_an_upload_is_served_only_under_its_unguessable_path(page: Page) -> None:
    async def conversation(client: httpx.AsyncClient) -> list[int]:
        path = (await upload(client, PICTURE))["path"]
        digest, folder = Path(path).parent.name, str(Path(path).parent.parent)
        guessed = path.replace(digest, hashlib.sha256(PICTURE).hexdigest())
        paths = [
            path,
            guessed,
            str(Path(path).parent),
            folder,
            f"{folder}/../../etc/hostname",
            "/etc/hostname",
        ]
        return [(await client.get(f"/gradio_api/file={name}")).status_code for name in paths]

    served, *refused = page.run(conversation)
    assert served == 200
    assert set(refused) <= {403, 404}


def test_an_upload_far_over_the_limit_is_refused_with_an_explanation(page: Page) -> None:
    async def conversation(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/gradio_api/upload", files={"files": ("big.png", b"x" * 500_000)})

    answer = page.run(conversation)
    assert answer.status_code == 413
    assert answer.text == bodies.too_large().text


def test_gradio_clients_from_1_4_on_can_parse_the_api_description(page: Page) -> None:
    """They fail on boolean schemas, which Gradio's own picture has."""

    async def conversation(client: httpx.AsyncClient) -> Any:
        return (await client.get("/gradio_api/info")).json()["named_endpoints"]["/judge"]

    def schemas(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            yield from (value[key] for key in ("additionalProperties", "items") if key in value)
            for inner in (*value.get("properties", {}).values(), *value.get("anyOf", [])):
                yield inner
                yield from schemas(inner)

    api = page.run(conversation)
    found = [one for parameter in api["parameters"] for one in schemas(parameter["type"])]
    assert {"string", "object"} <= {one["type"] for one in found}
    assert [parameter["parameter_name"] for parameter in api["parameters"]] == ["image", "text", "premise"]


def test_the_document_names_no_foreign_host(page: Page) -> None:
    async def conversation(client: httpx.AsyncClient) -> list[str]:
        return [(await client.get(path)).text for path in ("/", "/theme.css", "/gradio_api/info", "/config")]

    texts = page.run(conversation)
    found = {urlsplit(url).netloc for text in texts for url in re.findall(r"https?://[^\s\"'\\)]+", text)}
    assert found - {urlsplit(page.base).netloc, "www.w3.org"} == set()


@pytest.mark.parametrize("path", [*GUARDED, LOGIN])
def test_with_the_operations_tab_off_its_routes_are_not_found(page: Page, path: str) -> None:
    async def conversation(client: httpx.AsyncClient) -> tuple[int, Any]:
        method = GUARDED.get(path, "POST")
        content, headers = (b"{}" if method == "POST" else None), {"content-type": "application/json"}
        answer = await client.request(method, path, headers=headers, content=content)
        return answer.status_code, (await client.get("/config")).json()["components"]

    status, components = page.run(conversation)
    assert status == 404
    assert not [one for one in components if str(one["props"].get("elem_id")).startswith("ops")]


def test_the_status_is_in_the_browsers_language(page: Page) -> None:
    async def conversation(client: httpx.AsyncClient) -> Any:
        return (await client.get("/status", headers={"accept-language": "zh-CN"})).json()

    status = page.run(conversation)
    assert (status["state"], status["queue"]) == ("ready", False)
    assert say("zh", "state.ready") in status["html"]
    assert say("zh", "state.lost") in status["lost"]


def test_it_stops_after_the_last_answers_and_removes_the_uploads(tmp_path: Path) -> None:
    async def conversation(client: httpx.AsyncClient) -> tuple[Path, Any]:
        picture = await upload(client, PICTURE)
        asked = asyncio.create_task(call(client, picture, "hold", None))
        await holds(page)
        assert await asyncio.to_thread(page.end) == 0
        return Path(picture["path"]), await asked

    with serving(tmp_path) as page:
        path, (event, answer) = page.run(conversation)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", urlsplit(page.base).port)) != 0
    assert (event, answer["reason"]) == ("complete", "stopping")
    assert not path.parent.parent.exists()
    assert "Traceback" not in page.output
