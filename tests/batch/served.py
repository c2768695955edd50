"""Work lists to upload, and served batches over an application with a fake model."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from batch.batches import Batches
from batch.records import Batch, Result
from service.application import Application
from service.settings import Settings
from tests.fakes import until

NO_MOUNTS = Path("/nonexistent")


def png(shade: int, size: tuple[int, int] = (32, 24)) -> bytes:
    """A small picture whose grey value is ``shade``."""
    file = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def zipped(rows: Sequence[tuple[str, str]], members: Mapping[str, bytes] | None = None) -> bytes:
    """A zip of a CSV with image and text, and of its pictures: ``3.png`` has shade 3, unless given."""
    file = io.BytesIO()
    names = {name for name, _ in rows if name.removesuffix(".png").isdigit()}
    pictures = {name: png(int(name.removesuffix(".png"))) for name in names}
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("list.csv", "image,text\n" + "".join(f"{name},{text}\n" for name, text in rows))
        for name, data in {**pictures, **(members or {})}.items():
            archive.writestr(name, data)
    return file.getvalue()


def pairs(pictures: int, texts: int) -> list[tuple[str, str]]:
    """Rows about each of ``pictures`` in turn, ``texts`` times."""
    return [(f"{p}.png", f"text {t} of {p}") for t in range(texts) for p in range(pictures)]


@contextmanager
def serving(
    application: Application, run_dir: Path, *, clock: Callable[[], float] = time.time, **settings: Any
) -> Iterator[Batches]:
    """Served batches inside the context."""
    batches = Batches(application, Settings(run_dir=run_dir, **settings), mounts=NO_MOUNTS, clock=clock)
    batches.start()
    try:
        yield batches
    finally:
        batches.stop()


def upload(
    batches: Batches,
    content: bytes,
    name: str = "list.zip",
    *,
    caller: str = "192.0.2.1",
    owner: str = "",
    idempotency: str = "",
) -> Batch:
    with batches.receiving(caller, len(content), idempotency) as incoming:
        incoming.write(content)
        return batches.create(incoming, name, owner=owner)


def finished(batches: Batches, batch: Batch) -> list[Result]:
    """Wait for the end of a batch and return its results."""
    until(lambda: batches.find(batch.id, batch.owner).left == 0)
    return batches.results(batches.find(batch.id, batch.owner), 0, 100_000)
