"""The API beside the page on one listener, without the page, under a proxy's path, and at the stop."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lab.instances.instance import EXIT_SECONDS, Instance
from service.contract.request import Verdict
from service.front import Front
from service.http.bodies import App
from service.listening import Connections, listen, page_limits
from tests.api.serving import ENCODED, PICTURE, ScriptedApplication, base, client, code, serving
from tests.fakes import PATIENCE, until
from tests.web.application import SCORES
from tests.web.raw import request

CALL = {"image": ENCODED, "text": "a circle"}


class Site:
    """Answers with its name; records what the front calls."""

    lifespan = False

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls

    def start(self, port: int) -> App:
        self.calls.append(f"start {self.name}")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": self.name.encode()})

        return app

    def drain(self) -> None:
        self.calls.append(f"drain {self.name}")

    def close(self) -> None:
        self.calls.append(f"close {self.name}")


def front_of(sites: dict[str, Any], root_path: str = "") -> Front:
    connections = Connections("page", page_limits())
    return Front(sites, listen("127.0.0.1", 0, "--port"), connections, root_path=root_path)


@pytest.mark.parametrize("root", ["", "/vqa"])
def test_paths_lead_to_their_site(root: str) -> None:
    calls: list[str] = []
    api, page = Site("api", calls), Site("page", calls)
    front = front_of({"/v1": api, "/docs": api, "": page}, root)
    try:
        front.start()
        with client(front) as one:
            for path in ("/v1", "/v1/judge", "/docs"):
                assert one.get(root + path).text == one.get(path).text == "api"
            for path in ("/", "/v1x", "/x/v1", "/docsx", "/assets/docs"):
                assert one.get(root + path).text == "page"
    finally:
        front.stop()
    assert calls[:2] == ["start api", "start page"]
    assert sorted(calls[2:4]) == ["drain api", "drain page"]
    assert sorted(calls[4:]) == ["close api", "close page"]


def test_a_front_that_cannot_start_closes_its_sites() -> None:
    class Broken(Site):
        def start(self, port: int) -> App:
            raise RuntimeError

    calls: list[str] = []
    front = front_of({"": Broken("page", calls)})
    with pytest.raises(RuntimeError):
        front.start()
    front.stop()
    assert calls == ["close page"]


def test_under_a_proxy_s_path_the_api_answers_with_and_without_it() -> None:
    with serving(ScriptedApplication(), root_path="/vqa") as front, client(front) as api:
        for path in ("/v1/judge", "/vqa/v1/judge"):
            assert api.post(path, json=CALL).status_code == 200


def test_at_the_stop_accepted_calls_are_answered_and_new_ones_refused() -> None:
    scripted = ScriptedApplication()
    scripted.hold = True
    with serving(scripted) as front, httpx.Client(base_url=base(front), timeout=PATIENCE) as kept:
        assert kept.get("/v1/model").status_code == 200
        answers: list[int] = []
        caller = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{base(front)}/v1/judge", json=CALL).status_code)
        )
        caller.start()
        until(lambda: len(scripted.futures) == 1)
        front._site_of[""].drain()
        assert code(kept.post("/v1/judge", json=CALL)) == (503, "stopping")
        stopping = threading.Thread(target=front.stop)
        stopping.start()
        scripted.futures[0].set_result(Verdict.of(SCORES, duration=0.1, device="cpu"))
        caller.join(PATIENCE)
        stopping.join(PATIENCE)
    assert answers == [200]


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.long)])
def test_abandoned_calls_leave_nothing(count: int) -> None:
    scripted = ScriptedApplication()
    scripted.hold = True
    with serving(scripted) as front:
        body = httpx.Request("POST", base(front), json=CALL).read()
        sent = request("POST", "/v1/judge", "Content-Type: application/json", body=body)
        for _ in range(count):
            with socket.create_connection(("127.0.0.1", front.port), PATIENCE) as connection:
                connection.sendall(sent)
        calls = front._site_of[""]._api._calls  # type: ignore[attr-defined]
        until(lambda: all(one.cancelled() for one in scripted.futures))
        until(lambda: calls._running.used() == 0 and calls.limits.memory.used() == 0)
        until(lambda: front._connections.count == 0)
        scripted.hold = False
        with client(front) as api:
            assert api.post("/v1/judge", json=CALL).status_code == 200


@pytest.fixture(scope="module")
def without_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("without-page")
    with Instance(folder, "--model", "demo", "--page", "off", "--timeout", "60") as instance:
        instance.wait_healthy()
        yield instance


def test_with_the_page_both_answer_on_one_port(running_service: Instance) -> None:
    with httpx.Client(base_url=running_service.page, timeout=PATIENCE) as one:
        assert "gradio" in one.get("/").text
        answer = one.post("/v1/judge", files={"image": PICTURE}, data={"text": ["there is a red shape"] * 3})
        assert (answer.status_code, answer.json()["model"]) == (200, "demo")
        assert len(answer.json()["results"]) == 3
        assert one.get("/v2/health/ready").status_code == 200
        assert one.get("/docs").headers["content-type"].startswith("text/html")


def test_without_the_page_the_api_answers_and_gradio_is_not_loaded(
    running_service: Instance, without_page: Instance
) -> None:
    with httpx.Client(base_url=without_page.page, timeout=PATIENCE) as one:
        for path in ("/", "/config", "/gradio_api/info", "/ops/panel"):
            assert code(one.get(path)) == (404, "not_found")
        assert one.post("/v1/judge", json=CALL).status_code == 200
    loaded = [
        "/yaml/" in Path(f"/proc/{one.process.pid}/maps").read_text()  # Gradio imports it
        for one in (running_service, without_page)
    ]
    assert loaded == [True, False]


def test_a_process_without_the_page_stops_in_order(tmp_path: Path) -> None:
    with Instance(tmp_path, "--model", "demo", "--page", "off") as instance:
        instance.wait_healthy()
        instance.process.terminate()
        assert instance.process.wait(EXIT_SECONDS) == 0
