"""The proxies of docs/proxies.md, with the configuration blocks of that page."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from lab.instances.instance import EXIT_SECONDS, ROOT
from lab.instances.ports import free_ports
from page.access import WRONG_PER_CALLER
from page.operations.routes import LOGIN
from service.http import bodies
from tests.fakes import until
from tests.web.application import SCORES
from tests.web.client import Page, call, serving, upload

DOCUMENT = (ROOT / "docs" / "proxies.md").read_text(encoding="utf-8")
FLAGS = ("--trusted-proxies", "127.0.0.1", "--max-bytes", "1000000")
CALLER = "127.0.0.2"  # no trusted proxy
PATH = "/vqa"


def block(kind: str, page: str) -> str:
    """A block of the document, for a page at another address."""
    found = re.search(rf"^```{kind}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, kind
    assert "127.0.0.1:7860" in found[1]
    return found[1].replace("127.0.0.1:7860", urlsplit(page).netloc)


def nginx(folder: Path, page: str, port: int, path: str) -> list[str]:
    server = block("nginx", page).replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    server = re.sub(r" *ssl_certificate.*\n", "", server).replace("location /", f"location {path}/")
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    head = f"user root; daemon off; pid {folder}/pid; events {{}}\n"
    (folder / "conf").write_text(f"{head}http {{ access_log off; {places}\n{server} }}")
    return ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "conf")]


def nginx_that_takes_the_path_off(folder: Path, page: str, port: int, path: str) -> list[str]:
    command = nginx(folder, page, port, path)
    conf = (folder / "conf").read_text()
    changed = conf.replace("proxy_pass", f"rewrite ^{path}(.*)$ $1 break; proxy_pass")
    (folder / "conf").write_text(changed)
    return command


def caddy(folder: Path, page: str, port: int, path: str) -> list[str]:
    site = block("caddy", page).replace("page.example", f"http://127.0.0.1:{port}")
    if path:
        site = site.replace("    reverse_proxy", f"    handle {path}/* {{\n    reverse_proxy") + "}\n"
    (folder / "Caddyfile").write_text("{\n    admin off\n    auto_https off\n}\n" + site)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


def haproxy(folder: Path, page: str, port: int, path: str) -> list[str]:
    text = re.sub(r"bind .*", f"bind 127.0.0.1:{port}", block("haproxy", page))
    if path:
        text = text.replace("default_backend page", f"use_backend page if {{ path_beg {path}/ }}")
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


Proxy = Callable[[Path, str, int, str], list[str]]
PROXIES: dict[str, tuple[Proxy, str]] = {
    "nginx": (nginx, ""),
    "caddy": (caddy, ""),
    "haproxy": (haproxy, ""),
    "nginx, under a path": (nginx, PATH),
    "nginx, which takes it off": (nginx_that_takes_the_path_off, PATH),
    "caddy, under a path": (caddy, PATH),
    "haproxy, under a path": (haproxy, PATH),
}


@contextmanager
def running(proxy: Proxy, folder: Path, page: str, path: str) -> Iterator[str]:
    """The address of a proxy in front of ``page``."""
    (port,) = free_ports(1)
    command = proxy(folder, page, port, path)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "XDG_DATA_HOME": str(folder)}
        )

    def answers() -> bool:
        assert process.poll() is None, (folder / "output").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(answers)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(EXIT_SECONDS)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Page]]:
    """A page at the root and one under a path."""
    with ExitStack() as stack:
        yield {
            path: stack.enter_context(serving(tmp_path_factory.mktemp("page"), *FLAGS, *more))
            for path, more in (("", ()), (PATH, ("--root-path", PATH)))
        }


@pytest.fixture(params=PROXIES)
def proxied(
    request: pytest.FixtureRequest, pages: dict[str, Page], tmp_path: Path
) -> Iterator[tuple[str, Page]]:
    """The address that callers know, and the page behind it."""
    proxy, path = PROXIES[request.param]
    with running(proxy, tmp_path, pages[path].base, path) as address:
        yield address + path, pages[path]


def converse(address: str, conversation: Callable[[httpx.AsyncClient], Any], caller: str = CALLER) -> Any:
    async def inner() -> Any:
        transport = httpx.AsyncHTTPTransport(local_address=caller)
        async with httpx.AsyncClient(base_url=address, timeout=60, transport=transport) as client:
            return await conversation(client)

    return asyncio.run(inner())


def test_the_page_works_behind_a_proxy(proxied: tuple[str, Page]) -> None:
    address, _ = proxied

    async def conversation(client: httpx.AsyncClient) -> None:
        assert f'"root":"{address}"' in (await client.get("/")).text
        assert (await client.get("/config")).json()["root"] == address
        assert (await client.get("/static/img/logo.svg")).status_code == 200
        picture = await upload(client, b"x" * 900_000)
        assert (await client.get(f"/gradio_api/file={picture['path']}")).content == b"x" * 900_000
        event, answer = await call(client, picture, "there is a circle", None)
        assert (event, answer["scores"]) == ("complete", SCORES)
        large = await client.post("/gradio_api/upload", files={"files": ("large.png", b"x" * 4_200_000)})
        assert large.status_code == 413
        assert large.text == bodies.too_large().text

    converse(address, conversation)


def test_events_are_streamed_before_the_answer(proxied: tuple[str, Page]) -> None:
    address, _ = proxied

    async def conversation(client: httpx.AsyncClient) -> list[str]:
        events = (await client.get("/config")).json()["dependencies"]
        asks = next(event["id"] for event in events if event["backend_fn"])
        asked = {"data": [await upload(client, b"x"), "hold", None], "fn_index": asks, "session_hash": "s"}
        assert (await client.post("/gradio_api/queue/join", json=asked)).status_code == 200
        messages = []
        async with client.stream("GET", "/gradio_api/queue/data?session_hash=s") as stream:
            async for line in stream.aiter_lines():
                messages += re.findall(r'"msg": ?"(\w+)"', line)
                if messages[-1:] == ["process_generating"]:  # the pending card
                    await call(client, await upload(client, b"x"), "release", None)
        return messages

    assert "process_completed" in converse(address, conversation)


def test_a_caller_is_the_address_that_the_proxy_saw(proxied: tuple[str, Page]) -> None:
    """Not the one it claims; and it cannot lock out an operator behind the same proxy."""
    address, page = proxied
    password = (page.temporary.parent / "ops_password").read_text().strip()
    origin = {"origin": address.removesuffix(PATH)}

    async def guess(client: httpx.AsyncClient) -> list[int]:
        statuses = []
        for number in range(WRONG_PER_CALLER + 1):
            headers = {**origin, "x-forwarded-for": f"10.1.1.{number}"}
            answer = await client.post(LOGIN, json={"password": "no"}, headers=headers)
            statuses.append(answer.status_code)
        return statuses

    async def log_in(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(LOGIN, json={"password": password}, headers=origin)

    number = urlsplit(address).port or 0
    other, operator = (f"127.{number >> 8}.{number & 255}.{last}" for last in (3, 4))
    assert converse(address, guess, other)[-1] == 429
    answer = converse(address, log_in, operator)
    assert answer.status_code == 200
    assert f"Path={PATH if address.endswith(PATH) else '/'};" in answer.headers["set-cookie"]
    assert f"ACTION=wrong_password | FROM={other}\n" in page.output
    assert "10.1.1." not in page.output
