"""A server that answers as scripted, byte for byte, and keeps what it was sent."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

SCORES: Final = {"Yes": 0.9, "No": 0.06, "Maybe": 0.04}
MODEL: Final = {
    "model": "demo",
    "state": "loaded",
    "ready": True,
    "device": "cpu",
    "dtype": "fp32",
    "labels": ["Yes", "No", "Maybe"],
    "max_texts": 32,
    "max_chars": 1000,
    "max_bytes": 1_000_000,
    "max_pixels": 1_000_000,
    "timeout": 15.0,
    "calibration": {"state": "none"},
}
Raw = bytes | None  # None closes the connection without an answer


def answer(content: object, status: int = 200, *headers: str, kind: str = "application/json") -> bytes:
    """Return an answer with a JSON body, or with these bytes."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def judged(*labels: str, **more: object) -> bytes:
    """Return the answer with these verdicts."""
    results = [{"label": label, "score": 0.9, "scores": SCORES, "reason": None} for label in labels]
    return answer({"id": None, "request_id": "x", "model": "demo", "results": results, **more})


class Answering:
    """``judge`` are the next answers of POST /v1/judge, the last of which is repeated; ``model`` is that of
    GET /v1/model, ``probe`` that of the probe's text."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.model: Raw = answer(MODEL)
        self.probe: Raw = judged("Yes")
        self.judge: list[Raw] = [judged("Yes")]
        self.calls = 0
        self.heads: list[str] = []
        self.lock = threading.Lock()  # guards the above

    def reply(self, head: str, body: bytes) -> Raw:
        with self.lock:
            self.heads.append(head)
            if head.startswith("GET "):
                return self.model
            if b'\r\n\r\n"a photo"\r\n' in body:
                return self.probe
            self.calls += 1
            return self.judge.pop(0) if len(self.judge) > 1 else self.judge[0]


@contextmanager
def answering() -> Iterator[Answering]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while (request := _request(self.rfile)) is not None:
                    if (reply := scripted.reply(*request)) is None:
                        return
                    self.wfile.write(reply)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        scripted = Answering(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield scripted
        finally:
            server.shutdown()
            thread.join()


def _request(file: Any) -> tuple[str, bytes] | None:
    if (head := file.read(4)) not in (b"GET ", b"POST"):  # the end, or TLS
        return None
    while not head.endswith(b"\r\n\r\n"):
        if not (line := file.readline()):
            return None
        head += line
    text = head.decode("latin-1")
    length = next(
        (int(line.split(":")[1]) for line in text.lower().split("\r\n") if "content-length" in line), 0
    )
    return text, file.read(length)
