"""A page over the scripted application in its own process, and a client for it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from lab.instances.instance import EXIT_SECONDS, ROOT, START_SECONDS
from lab.instances.ports import free_ports
from tests.web import in_front

META = {"_type": "gradio.FileData"}
T = TypeVar("T")


def present(folder: Path, pattern: str) -> list[Path]:
    """Return the files that match; a folder that is deleted meanwhile ends a walk of pathlib's, so walk
    again."""
    while True:
        try:
            return [path for path in folder.glob(pattern) if path.is_file()]
        except FileNotFoundError:
            continue


class Page:
    """A serving process. ``base`` is its URL, ``output`` its output so far, ``temporary`` its temp folder."""

    def __init__(self, process: subprocess.Popen[bytes], base: str, output: Path, temporary: Path) -> None:
        self.process = process
        self.base = base
        self.temporary = temporary
        self._output = output

    @property
    def uploads(self) -> list[Path]:
        """Return its uploaded files."""
        return present(self.temporary, "ofa-page-*/*/picture*")

    def wait_serving(self) -> None:
        # In front of an engine, the page serves before it knows the engine.
        signs = ("SERVER=page", "ENGINE_REACHED") if in_front.wanted() else ("serving",)
        give_up = time.monotonic() + START_SECONDS
        while not all(sign in self.output for sign in signs):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < give_up, self.output
            time.sleep(0.05)

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    def run(self, conversation: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
        """Run the conversation and return its result."""

        async def inner() -> T:
            limits = httpx.Limits(max_connections=1000)
            async with httpx.AsyncClient(base_url=self.base, timeout=120.0, limits=limits) as client:
                return await conversation(client)

        return asyncio.run(inner())

    def end(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.terminate()
        return self.process.wait(EXIT_SECONDS)


@contextmanager
def serving(
    folder: Path, *flags: str, port: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Page]:
    """Serve a page over ``tests.web.application`` inside the context."""
    port = port or free_ports(1)[0]
    output, temporary = folder / "output.txt", folder / "temporary"
    temporary.mkdir(exist_ok=True)
    with ExitStack() as stack:
        file = stack.enter_context(output.open("wb"))
        if in_front.wanted():
            engine = stack.enter_context(in_front.scripted_engine(folder, file))
            command = ["web_app.py", "--engine", engine, "--port", str(port), "--health-port", "0"]
            command += ["--health-host", "127.0.0.1", "--ops", "off"]
        else:
            command = ["-m", "tests.web.application", str(port), "--model", "demo"]
        process = subprocess.Popen(
            [
                sys.executable,
                *command,
                "--run-dir",
                str(folder),
                *(in_front.flags_of(flags) if in_front.wanted() else flags),
            ],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(temporary), **(environment or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        stack.callback(process.wait, EXIT_SECONDS)
        stack.callback(process.kill)
        page = Page(process, f"http://127.0.0.1:{port}", output, temporary)
        page.wait_serving()
        yield page


async def upload(client: httpx.AsyncClient, content: bytes, name: str = "picture.png") -> dict[str, Any]:
    """Upload a file and return its value for a call."""
    answer = await client.post("/gradio_api/upload", files={"files": (name, content)})
    answer.raise_for_status()
    return {"path": answer.json()[0], "meta": META}


async def call(
    client: httpx.AsyncClient, *data: Any, headers: Mapping[str, str] | None = None
) -> tuple[str, Any]:
    """Call /judge; return ``("complete", answer)`` or ``("error", error)``."""
    joined = await client.post("/gradio_api/call/judge", json={"data": data}, headers=dict(headers or {}))
    joined.raise_for_status()
    stream = await client.get(f"/gradio_api/call/judge/{joined.json()['event_id']}")
    *_, event, data = (line for line in stream.text.splitlines() if line)
    content = json.loads(data.removeprefix("data: "))
    event = event.removeprefix("event: ")
    return event, content[0] if event == "complete" else content
