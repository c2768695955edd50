"""People who keep asking, and a record of what became of each question."""

from __future__ import annotations

import io
import json
import threading
import time
import urllib.request
from http.client import HTTPException
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

PAUSE = 0.2
"""Seconds a user waits between an answer and the next question; after a refusal always."""


class Outcome(NamedTuple):
    """``kind``: verdict; no verdict (``detail`` is its reason); refused (nobody took the question);
    lost (taken, and never answered)."""

    asked: float
    ended: float
    kind: str
    detail: str = ""


def red_circle() -> bytes:
    picture = Image.new("RGB", (256, 192), "white")
    ImageDraw.Draw(picture).ellipse((80, 48, 176, 144), fill="red")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def ask(page: str, picture: bytes, text: str, patience: float = 60.0) -> Outcome:
    """One question through the page's API, as a script asks it."""
    asked = time.monotonic()
    try:
        event = _take(page, picture, text)
    except (OSError, ValueError, HTTPException) as error:
        return Outcome(asked, time.monotonic(), "refused", type(error).__name__)
    try:
        answer = _answer(page, event, patience)
    except (OSError, ValueError, HTTPException) as error:
        return Outcome(asked, time.monotonic(), "lost", type(error).__name__)
    if answer["reason"] is not None:
        return Outcome(asked, time.monotonic(), "no verdict", answer["reason"])
    assert answer["scores"] is not None, f"a verdict was invented: {answer}"
    return Outcome(asked, time.monotonic(), "verdict", answer["label"])


def _take(page: str, picture: bytes, text: str) -> str:
    boundary = "--a-boundary-of-the-tests"
    head = 'Content-Disposition: form-data; name="files"; filename="picture.png"\r\nContent-Type: image/png'
    body = f"--{boundary}\r\n{head}\r\n\r\n".encode() + picture + f"\r\n--{boundary}--\r\n".encode()
    (path,) = _post(page + "/gradio_api/upload", body, f"multipart/form-data; boundary={boundary}")
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, text, None]
    question = json.dumps({"data": data}).encode()
    return str(_post(page + "/gradio_api/call/judge", question, "application/json")["event_id"])


def _post(url: str, body: bytes, content_type: str) -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": content_type})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def _answer(page: str, event: str, patience: float) -> dict[str, Any]:
    with urllib.request.urlopen(f"{page}/gradio_api/call/judge/{event}", timeout=patience) as stream:
        lines = stream.read().decode().splitlines()
    if "event: complete" not in lines:
        raise ValueError("the stream ended without an answer")
    (answer,) = json.loads(lines[lines.index("event: complete") + 1].removeprefix("data: "))
    return dict(answer)


class Users:
    """``count`` people asking one question after the other, while the context lasts."""

    def __init__(self, page: str, count: int = 2, pause: float = PAUSE) -> None:
        self._page = page
        self._pause = pause
        self._picture = red_circle()
        self._lock = threading.Lock()  # guards _outcomes
        self._outcomes: list[Outcome] = []
        self._enough = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep_asking, args=(number,), name=f"user {number}")
            for number in range(count)
        ]

    def __enter__(self) -> Users:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _keep_asking(self, number: int) -> None:
        asked = 0
        while not self._enough.wait(self._pause):
            asked += 1
            outcome = ask(self._page, self._picture, f"there are {number} circles, question {asked}")
            with self._lock:
                self._outcomes.append(outcome)
            if outcome.kind == "refused":
                self._enough.wait(PAUSE)

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of the questions so far, in the order of their ends."""
        with self._lock:
            return list(self._outcomes)
