"""The input of a request to the engine behind --engine: a picture file as it was sent, and texts. Nothing is
decoded here; the engine checks both."""

from __future__ import annotations

import io
import weakref
from collections.abc import Sequence
from typing import Final

from PIL import Image

from service.contract.errors import Busy, CallerBusy, InputError
from service.contract.request import VerdictFuture
from service.http.quota import NoCapacity, Quota, QuotaExceeded
from service.intake import image as image_input
from service.intake import text as text_input
from service.intake.prepare import Prepared
from service.remote.picture import FilePair, PictureFile
from service.settings import Settings

MEMORY_BYTES: Final = 268_435_456  # of pictures that are being sent, or room for four of the largest
RETRY_SECONDS: Final = 2.0
_NO_PICTURE: Final = Image.new("RGB", (1, 1))


class RemoteIntake:
    """Thread-safe. Bounds the memory of all pictures, of which one caller may use half."""

    takes_premise: bool | None = None  # only the engine knows

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        total = max(MEMORY_BYTES, 4 * settings.max_bytes)
        self._memory = Quota(total, total // 2)

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
        """Read the file. Raises InputError, InvalidTexts, and Busy without memory for it."""
        texts = text_input.prepare_all(hypotheses, premise, self._settings.max_chars, None)
        file = self._file(_png(image) if isinstance(image, Image.Image) else image, caller)
        pairs = [
            FilePair(_NO_PICTURE, one.hypothesis, one.premise, guarded=not probe, file=file) for one in texts
        ]
        return Prepared(pairs, (0, 0), [one.removed for one in texts])

    def thumbnail(self, image: bytes, most: int, *, deadline: float, caller: str) -> bytes:
        """Only served batches need these, which are not here."""
        raise InputError("This process decodes no pictures.", code="image_unreadable")

    def _file(self, source: object, caller: str) -> PictureFile:
        with image_input.opened(source, self._settings.max_bytes) as opened:
            try:
                self._memory.acquire(caller, size := opened.size)
            except QuotaExceeded:
                raise CallerBusy(
                    "Too many bytes of this caller's pictures are being sent.", retry_after=RETRY_SECONDS
                ) from None
            except NoCapacity:
                raise Busy("Too many bytes of pictures are being sent.", retry_after=RETRY_SECONDS) from None
            try:
                with image_input.input_errors():
                    file = PictureFile(opened.read())
            except BaseException:
                self._memory.release(caller, size)
                raise
            file.on_close = weakref.finalize(file, self._memory.release_later, caller, size)
            file.on_close.atexit = False
            return file


def _png(image: Image.Image) -> bytes:
    """Return a PIL image, such as the probe's, as a file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
