"""Simulated users, and the outcome of each of their requests."""

from __future__ import annotations

import io
import json
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

PAUSE = 0.2
"""Seconds between an answer and the next request; after a refusal always."""
REUSED_SECONDS = 300.0
"""Seconds for which users with a rate reuse an upload; the page keeps it longer."""
TEXTS = (
    "there is a red circle",
    "there is a blue square",
    "the picture shows a circle",
    "there is no circle",
    "a red circle is in the picture",
    "there is a green triangle",
)
"""Sentences about one picture, a red circle; each has exactly one correct answer."""


class Outcome(NamedTuple):
    """``kind``: verdict; no verdict (``detail`` is its reason); refused (not accepted); lost (accepted and
    not answered); invented (a verdict without scores, or other than the first). Times are monotonic seconds.
    """

    asked: float
    ended: float
    kind: str
    detail: str = ""

    @property
    def word(self) -> str:
        return f"no verdict ({self.detail})" if self.kind == "no verdict" else self.kind


def red_circle() -> bytes:
    picture = Image.new("RGB", (256, 192), "white")
    ImageDraw.Draw(picture).ellipse((80, 48, 176, 144), fill="red")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def ask(page: str, picture: bytes | str, text: str, patience: float = 60.0, caller: str = "") -> Outcome:
    """Send one request through the page's API. A verdict's ``detail`` is its label; ``picture`` is a file's
    content, or the path of an upload; ``caller`` is the address that a trusted proxy would name."""
    asked = time.monotonic()
    try:
        path = upload(page, picture, caller) if isinstance(picture, bytes) else picture
        event = _take(page, path, text, caller)
    except (OSError, ValueError, HTTPException) as error:
        return Outcome(asked, time.monotonic(), "refused", type(error).__name__)
    try:
        answer = _answer(page, event, patience)
    except (OSError, ValueError, HTTPException) as error:
        return Outcome(asked, time.monotonic(), "lost", type(error).__name__)
    if answer["reason"] is not None:
        return Outcome(asked, time.monotonic(), "no verdict", answer["reason"])
    kind = "verdict" if answer["scores"] is not None else "invented"
    return Outcome(asked, time.monotonic(), kind, answer["label"])


def upload(page: str, picture: bytes, caller: str = "") -> str:
    """Upload ``picture`` and return its path on the server."""
    boundary = "--a-boundary-of-the-tests"
    head = 'Content-Disposition: form-data; name="files"; filename="picture.png"\r\nContent-Type: image/png'
    body = f"--{boundary}\r\n{head}\r\n\r\n".encode() + picture + f"\r\n--{boundary}--\r\n".encode()
    (path,) = _post(page + "/gradio_api/upload", body, f"multipart/form-data; boundary={boundary}", caller)
    return str(path)


def _take(page: str, path: str, text: str, caller: str) -> str:
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, text, None]
    question = json.dumps({"data": data}).encode()
    return str(_post(page + "/gradio_api/call/judge", question, "application/json", caller)["event_id"])


def _post(url: str, body: bytes, content_type: str, caller: str) -> Any:
    headers = {"Content-Type": content_type, **({"X-Forwarded-For": caller} if caller else {})}
    request = urllib.request.Request(url, body, headers)
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
    """``count`` users in a closed loop, while the context lasts.

    With ``rate`` it is an open loop of that many requests per second in all: a request that falls due while
    all users wait is dropped. Uploads are reused, so that the load is on the engine.
    """

    def __init__(self, page: str, count: int = 2, pause: float = PAUSE, rate: float | None = None) -> None:
        self._page = page
        self._pause = pause
        self._rate = rate
        self._picture = red_circle()
        self._lock = threading.Lock()  # guards the fields below
        self._outcomes: list[Outcome] = []
        self._labels: dict[str, str] = {}
        self._due = time.monotonic()
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
        asked = number
        picture: bytes | str = self._picture
        uploaded = -REUSED_SECONDS
        while not self._enough.wait(self._next_pause()):
            text = TEXTS[asked % len(TEXTS)]
            asked += 1
            if self._rate is not None and time.monotonic() - uploaded > REUSED_SECONDS:
                with suppress(OSError, ValueError, HTTPException):
                    picture, uploaded = upload(self._page, self._picture), time.monotonic()
            outcome = ask(self._page, picture, text)
            with self._lock:
                if (
                    outcome.kind == "verdict"
                    and self._labels.setdefault(text, outcome.detail) != outcome.detail
                ):
                    outcome = outcome._replace(kind="invented")
                self._outcomes.append(outcome)
            if outcome.kind == "refused":
                self._enough.wait(PAUSE)

    def _next_pause(self) -> float:
        """Claim the next due request; return the seconds until then."""
        if self._rate is None:
            return self._pause
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now) + 1 / self._rate
            return self._due - now

    @property
    def outcomes(self) -> list[Outcome]:
        """Outcomes so far, in order of completion."""
        with self._lock:
            return list(self._outcomes)

    def take(self) -> list[Outcome]:
        """Return and drop the outcomes since the last call."""
        with self._lock:
            taken, self._outcomes = self._outcomes, []
        return taken


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return what users saw: counts by kind, then the longest wait."""
    counts = Counter(outcome.word for outcome in outcomes)
    longest = max((o.ended - o.asked for o in outcomes if o.kind in ("verdict", "no verdict")), default=0.0)
    words = [f"{count} {kind}" for kind, count in sorted(counts.items())]
    return ", ".join([*words, f"longest wait {longest:.1f} s"]) if words else "nothing"
