"""TIFF directories: read the orientation in an EXIF block; reduce a file to the tags that decoding needs."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from ofa.errors import ImageError

#: Bytes per value, by type.
_SIZES: Final = dict(zip(range(1, 14), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), strict=True)) | dict.fromkeys(
    range(16, 19), 8
)
_INTEGERS: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _ORIENTATION, _SAMPLES = 256, 257, 258, 259, 274, 277
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
#: Tags for decoding: size, layout, compression, palette, tables. All others are metadata.
_NEEDED: Final = frozenset(
    {
        *(254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
        *(332, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
    }
)
_OFFSETS: Final = frozenset((273, 279, 324, 325))  # one value per strip or tile
_ENTRIES: Final = 4096  # tags per directory; cameras write about a hundred
_STRIPS: Final = 70_000  # the largest height in strips of one row
_VALUES: Final = 3 << 16  # of any other tag: a 16-bit palette
_TILE_PIXELS: Final = 1 << 20  # a tile may be larger than a small picture, up to this


class _Entry(NamedTuple):
    tag: int
    type: int
    values: int  # number of values
    content: bytes  # the values, or their offset if they do not fit


class _Layout(NamedTuple):
    """The byte order, and whether offsets have 8 bytes (BigTIFF)."""

    order: str
    big: bool

    @classmethod
    def of(cls, data: bytes) -> _Layout:
        """Parse the file's first bytes. Raises struct.error."""
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        version = data[2:4].strip(b"\0")  # some writers use the wrong byte order
        if order is None or version not in (b"*", b"+"):
            raise struct.error("not a TIFF header")
        return cls(order, version == b"+")

    @property
    def word(self) -> str:
        """The format of an offset."""
        return self.order + ("Q" if self.big else "I")

    @property
    def start(self) -> int:
        """Position of the first directory's offset."""
        return 8 if self.big else 4

    def entries(self, data: bytes) -> Iterator[_Entry]:
        """Entries of the first directory. Raises struct.error on truncated data, and ImageError."""
        (at,) = struct.unpack_from(self.word, data, self.start)
        number = struct.Struct(self.order + ("Q" if self.big else "H"))
        (count,) = number.unpack(data[at : at + number.size])
        entry = struct.Struct(self.order + ("HHQ8s" if self.big else "HHI4s"))
        at += number.size
        directory = data[at : at + count * entry.size]
        if len(directory) == count * entry.size and count > _ENTRIES:
            raise _too_many_parts()
        for fields in entry.iter_unpack(directory):
            yield _Entry(*fields)

    def integers(self, entry: _Entry, data: bytes) -> tuple[int, ...]:
        """An entry's values, empty unless they are integers. Raises struct.error."""
        kind = _INTEGERS.get(entry.type)
        if kind is None or entry.values > _VALUES:
            return ()
        values = struct.Struct(f"{self.order}{entry.values}{kind}")
        at = 0 if values.size <= len(entry.content) else struct.unpack(self.word, entry.content)[0]
        place = data if at else entry.content
        return values.unpack(place[at : at + values.size])


def orientation_of(exif: bytes) -> int:
    """The orientation (1 to 8) in an EXIF block; 1 if there is none."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        layout = _Layout.of(exif)
        for entry in layout.entries(exif):
            if entry.tag == _ORIENTATION:
                return _orientation(layout.integers(entry, exif))
    except (struct.error, ImageError):
        pass  # a damaged block is ignored
    return 1


def reduced_tiff(data: bytes) -> tuple[bytes, int, float]:
    """Return the file with only the tags that decoding needs, its orientation, and the bytes per pixel that
    the decoder needs in addition to the pixels.

    Raises:
        ImageError: ``too_slow_to_read``, ``image_unsupported``, ``image_truncated``, ``image_unreadable``.
        struct.error: the file ends too early.
    """
    layout = _Layout.of(data)
    entries = {entry.tag: entry for entry in layout.entries(data)}
    kept = [entry for tag, entry in sorted(entries.items()) if tag in _NEEDED and entry.type in _SIZES]
    for entry in kept:
        if entry.values * _SIZES[entry.type] > len(entry.content):
            (at,) = struct.unpack(layout.word, entry.content)
            if at + entry.values * _SIZES[entry.type] > len(data):
                raise struct.error("a tag outside the file")
        if entry.values > (_STRIPS if entry.tag in _OFFSETS else _VALUES):
            raise _too_many_parts()
    numbers = {entry.tag: layout.integers(entry, data) for entry in kept if entry.tag not in _OFFSETS}
    turned = _orientation(layout.integers(entries[_ORIENTATION], data)) if _ORIENTATION in entries else 1
    return _with_directory(data, layout, kept), turned, _overhead(numbers)


def _overhead(numbers: dict[int, tuple[int, ...]]) -> float:
    """Bytes per pixel in strip or tile buffers. Raises ImageError."""

    def first(tag: int, otherwise: int) -> int:
        return (numbers.get(tag) or (otherwise,))[0]

    bits = numbers.get(_BITS) or (1,)
    if 12 in bits:
        raise ImageError("A TIFF of 12 bits is not supported.", "image_unsupported")
    tile = first(_TILE_WIDTH, 0) * first(_TILE_HEIGHT, 0)
    if tile > max(first(_WIDTH, 0) * first(_HEIGHT, 0), _TILE_PIXELS):
        raise ImageError("The picture's tiles are larger than the picture.")
    if first(_COMPRESSION, 1) == 1:
        return 0.0
    return max(4.0, max(bits) * max(first(_SAMPLES, 1), len(bits)) / 8)


def _with_directory(data: bytes, layout: _Layout, entries: list[_Entry]) -> bytes:
    """Return the file with one directory of ``entries`` at its end; offsets stay valid."""
    padding = bytes(len(data) % 2)
    number, entry, word = (
        struct.Struct(layout.order + form)
        for form in (("Q", "HHQ8s", "Q") if layout.big else ("H", "HHI4s", "I"))
    )
    head = data[: layout.start] + word.pack(len(data) + len(padding))
    body = b"".join(entry.pack(*one) for one in entries)
    rest = memoryview(data)[len(head) :]
    return b"".join([head, rest, padding, number.pack(len(entries)), body, word.pack(0)])


def _orientation(values: tuple[int, ...]) -> int:
    return values[0] if values and 1 <= values[0] <= 8 else 1


def _too_many_parts() -> ImageError:
    return ImageError("The picture file consists of too many parts.", "too_slow_to_read")
