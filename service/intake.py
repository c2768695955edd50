"""From what was sent to a request that can wait: texts cleaned, picture decoded and made small, all checked.

Runs in the callers' threads; only so many pictures are decoded at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from PIL import Image

from service import image_input, text
from service.errors import DeadlineExceeded, InputError
from service.logs import RequestLog
from service.protocols import Model
from service.request import Pair, Request
from service.settings import Settings

DECODERS: Final = 4  # pictures decoded at once: a large one takes half a gigabyte while it is
_UNSEEN: Final = Image.new("RGB", (1, 1))  # in place of a picture that nobody has looked at yet


class Intake:
    """Safe to call from any number of threads."""

    def __init__(self, settings: Settings, model: Model, journal: RequestLog) -> None:
        self._settings = settings
        self._model = model
        self._journal = journal
        self._decoding = threading.BoundedSemaphore(DECODERS)

    def accept(
        self, image: object, hypothesis: object, premise: object, frame: Request
    ) -> tuple[Request, dict[str, int]]:
        """The request with clean texts and a small picture, and what was removed from the texts.

        Raises InputError, DeadlineExceeded when no place for decoding came free in time, MemoryError.
        """
        began = time.monotonic()
        settings = self._settings
        texts = text.prepare(hypothesis, premise, settings.max_chars)
        self._check_premise(texts.premise)
        with self._decoder(replace(frame, pair=Pair(_UNSEEN, texts.hypothesis, texts.premise))):
            picture = image_input.load(image, max_bytes=settings.max_bytes, max_pixels=settings.max_pixels)
            small = self._model.prepare(picture.image)
        request = replace(
            frame,
            pair=Pair(small, texts.hypothesis, texts.premise),
            size=picture.size,
            prepared=time.monotonic() - began,
        )
        return request, dict(texts.removed)

    @contextmanager
    def _decoder(self, request: Request) -> Iterator[None]:
        """One of the few places for decoding; a probe's small picture needs none and waits for none."""
        if request.source == "probe":
            yield
            return
        if not self._decoding.acquire(timeout=max(0.0, request.deadline - time.monotonic())):
            self._journal.slow(request, "decoding", time.monotonic() - request.arrived)
            raise DeadlineExceeded("Too many pictures are being read at once.")
        try:
            yield
        finally:
            self._decoding.release()

    def _check_premise(self, premise: str | None) -> None:
        takes = self._model.takes_premise
        if takes is False and premise is not None:
            raise InputError(
                "This model's prompt has no place for a premise.",
                code="premise_refused",
                remedy="Leave the premise out.",
            )
        if takes is True and premise is None:
            raise InputError(
                "This model compares two texts.", code="premise_needed", remedy="Give a premise as well."
            )


def as_sent(hypothesis: object, premise: object) -> Pair:
    """What was sent, before anything of it was looked at: what is no text is none."""
    first, second = (sent if isinstance(sent, str) else "" for sent in (hypothesis, premise))
    return Pair(_UNSEEN, first, second or None)


def measured(request: Request, error: InputError) -> Request:
    """The refused request with the size of its picture, if the error was found in a picture that has one."""
    width, height = error.facts.get("width"), error.facts.get("height")
    if isinstance(width, int) and isinstance(height, int):
        return replace(request, size=(width, height))
    return request
