"""Check and prepare the input of a request: clean the texts, convert the picture to the model's square.

Runs in the callers' threads. A picture file is decoded by a reader process; a PIL image is converted here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image

from service.contract.errors import InputError
from service.contract.protocols import Model
from service.contract.request import Pair, VerdictFuture
from service.intake import image as image_input
from service.intake import text
from service.intake.image import Picture
from service.intake.readers import Readers
from service.intake.text import Texts
from service.settings import Settings

_NO_PICTURE: Final = Image.new("RGB", (1, 1))


@dataclass(frozen=True, slots=True)
class Prepared:
    """Input that the model can judge: a pair for each text, all with the same picture object. ``size`` is the
    picture's width and height as sent, ``removed`` counts for each pair the characters removed from its
    texts, by kind."""

    pairs: Sequence[Pair]
    size: tuple[int, int]
    removed: Sequence[Mapping[str, int]]


class Intake:
    """Thread-safe."""

    def __init__(self, settings: Settings, model: Model, readers: Readers) -> None:
        self._settings = settings
        self._model = model
        self._readers = readers

    def prepare(
        self,
        image: object,
        hypotheses: Sequence[object],
        premise: object,
        *,
        deadline: float,
        caller: str,
        wanted: VerdictFuture,
        probe: bool = False,
    ) -> Prepared:
        """Prepare the input by ``deadline`` (monotonic seconds).

        ``caller`` identifies whose request it is, for the readers' limits; cancelling ``wanted`` stops the
        decoding; a ``probe`` may be in any language and is not guarded. Raises InputError, InvalidTexts,
        DeadlineExceeded, MemoryError, and what ``Readers.read`` raises.
        """
        texts = self.texts(hypotheses, premise, any_language=probe)
        picture = self.picture(image, deadline=deadline, caller=caller, wanted=wanted)
        pairs = [Pair(picture.image, one.hypothesis, one.premise, guarded=not probe) for one in texts]
        return Prepared(pairs, picture.size, [one.removed for one in texts])

    def thumbnail(self, image: bytes, most: int, *, deadline: float, caller: str) -> bytes:
        """Return a JPEG of a picture file with ``most`` pixels on its longer side. Raises InputError and what
        ``Readers.read`` raises."""
        with image_input.opened(image, self._settings.max_bytes) as file, image_input.input_errors():
            read = self._readers.read(
                file, side=most, max_pixels=self._settings.max_pixels, deadline=deadline, caller=caller
            )
        return image_input.thumbnail(read, most)

    @property
    def takes_premise(self) -> bool | None:
        """Whether the model requires (True), refuses (False) or allows a premise."""
        return self._model.takes_premise

    def texts(
        self, hypotheses: Sequence[object], premise: object, *, any_language: bool = False
    ) -> list[Texts]:
        """Clean the texts. Raises InputError, InvalidTexts."""
        checked = self._settings.language == "auto" and not any_language
        language = self._model.language if checked else None
        texts = text.prepare_all(hypotheses, premise, self._settings.max_chars, language)
        self._check_premise(texts[0].premise)
        return texts

    def picture(self, image: object, *, deadline: float, caller: str, wanted: VerdictFuture) -> Picture:
        """Convert the picture to the model's square. Raises as ``prepare`` does."""
        settings, side = self._settings, self._model.side()
        if isinstance(image, Image.Image):
            return image_input.converted(image, side=side, max_pixels=settings.max_pixels)
        with image_input.opened(image, settings.max_bytes) as file:
            return self._readers.read(
                file,
                side=side,
                max_pixels=settings.max_pixels,
                deadline=deadline,
                caller=caller,
                wanted=wanted,
            )

    def _check_premise(self, premise: str | None) -> None:
        takes = self.takes_premise
        if takes is False and premise is not None:
            raise InputError(
                "This model does not take a premise.", code="premise_refused", remedy="Leave the premise out."
            )
        if takes is True and premise is None:
            raise InputError("This model needs a premise.", code="premise_needed", remedy="Add a premise.")


def raw_pair(hypothesis: object, premise: object) -> Pair:
    """Return the texts as sent, for the record of a refused request; anything but a string counts as
    empty."""
    first, second = (sent if isinstance(sent, str) else "" for sent in (hypothesis, premise))
    return Pair(_NO_PICTURE, first, second or None)


def size_in(error: Exception) -> tuple[int, int]:
    """Return the size of the refused picture, (0, 0) if ``error`` does not name it."""
    facts = error.facts if isinstance(error, InputError) else {}
    width, height = facts.get("width"), facts.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else (0, 0)
