"""Turn submitted input into a Request: texts cleaned, picture decoded and resized, everything checked.

Runs in the callers' threads. Picture files are decoded by reader processes, PIL images here.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from PIL import Image

from service.contract.errors import DeadlineExceeded, InputError
from service.contract.protocols import Journal, Model
from service.contract.request import Pair, Request, VerdictFuture
from service.intake import image as image_input
from service.intake import text
from service.intake.image import Picture
from service.intake.readers import Readers
from service.settings import Settings

_UNREAD: Final = Image.new("RGB", (1, 1))  # placeholder for a picture that has not been read


class Intake:
    """Thread-safe."""

    def __init__(self, settings: Settings, model: Model, journal: Journal, readers: Readers) -> None:
        self._settings = settings
        self._model = model
        self._journal = journal
        self._readers = readers

    def accept(
        self,
        image: object,
        hypothesis: object,
        premise: object,
        frame: Request,
        caller: str,
        wanted: VerdictFuture,
    ) -> tuple[Request, dict[str, int]]:
        """Return the request with cleaned texts and converted picture, and the removed characters by kind.

        ``caller`` identifies the client; cancelling ``wanted`` stops the reading of a file.

        Raises InputError, MemoryError, and what ``Readers.read`` raises, such as DeadlineExceeded.
        """
        began = time.monotonic()
        texts = text.prepare(hypothesis, premise, self._settings.max_chars)
        self._check_premise(texts.premise)
        unread = replace(frame, pair=Pair(_UNREAD, texts.hypothesis, texts.premise))
        try:
            picture = self._picture(image, unread, caller, wanted)
        except DeadlineExceeded:
            self._journal.slow(unread, "decoding", time.monotonic() - frame.arrived)
            raise
        request = replace(
            frame,
            pair=Pair(picture.image, texts.hypothesis, texts.premise),
            size=picture.size,
            prepared=time.monotonic() - began,
        )
        return request, dict(texts.removed)

    def _picture(self, image: object, request: Request, caller: str, wanted: VerdictFuture) -> Picture:
        settings, side = self._settings, self._model.side()
        if isinstance(image, Image.Image):
            return image_input.converted(image, side=side, max_pixels=settings.max_pixels)
        with image_input.opened(image, settings.max_bytes) as file:
            pixels, size = self._readers.read(
                file,
                side=side,
                max_pixels=settings.max_pixels,
                deadline=request.deadline,
                caller=caller,
                wanted=wanted,
            )
        return Picture(pixels, size)

    def _check_premise(self, premise: str | None) -> None:
        takes = self._model.takes_premise
        if takes is False and premise is not None:
            raise InputError(
                "This model does not take a premise.",
                code="premise_refused",
                remedy="Remove the premise.",
            )
        if takes is True and premise is None:
            raise InputError("This model requires a premise.", code="premise_needed", remedy="Add a premise.")


def raw_pair(hypothesis: object, premise: object) -> Pair:
    """The submitted texts unchecked, with a placeholder picture; what is not a string counts as empty."""
    first, second = (sent if isinstance(sent, str) else "" for sent in (hypothesis, premise))
    return Pair(_UNREAD, first, second or None)


def with_image_size(request: Request, error: InputError) -> Request:
    """The refused request with the size of its picture, if the error tells it."""
    width, height = error.facts.get("width"), error.facts.get("height")
    if isinstance(width, int) and isinstance(height, int):
        return replace(request, size=(width, height))
    return request
