"""Read a zip that may be hostile, within limits.

Refused: links and other special files, absolute names, drive letters and ``..``, encryption, duplicate names,
archives within (but for a sheet), compression other than deflate, more members or bytes than allowed. What a
header declares is an upper bound of what is inflated, since zipfile stops there; then the checksum differs.
"""

from __future__ import annotations

import io
import posixpath
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, cast

from batch.rows import LOCAL, Limits, ListError
from service.contract.causes import InputCode, ListCode
from service.contract.errors import InputError

LISTS: Final = (".csv", ".tsv", ".jsonl", ".xlsx")
_DIRECTORY_BYTES: Final = 256  # of a member in the archive's directory: its head, a name, extra fields
_LEAST_DIRECTORY: Final = 1 << 16  # zipfile looks for the directory in blocks of this size
MAX_NAME: Final = (
    1024  # characters; normalizing a long run of accents takes quadratic time, with the GIL held
)
_BLOCK: Final = 1 << 20
_NESTED: Final = re.compile(r"\.(zip|jar|7z|rar|tar|tgz|gz|bz2|xz|zst|cab|iso)$", re.IGNORECASE)
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_UTF_8: Final = 0x800
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
#: In the XML of a workbook: bytes between two "<" (a cell has at most 32,767 characters), and what may come
#: before the first.
_STRETCH: Final = 1 << 20
_BEFORE_XML: Final = b"\xef\xbb\xbf\xff\xfe \t\r\n"
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile inflates others without a bound
_DAMAGE: Final = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


class _TooLarge(Exception):
    pass


class _Bounded:
    """Refuses to read more than ``most`` bytes at once; zipfile reads the whole directory in one call."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self._stream = stream
        self._most = max(most, _LEAST_DIRECTORY + 64)
        self.seek, self.tell, self.seekable, self.close = (
            stream.seek,
            stream.tell,
            stream.seekable,
            stream.close,
        )

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(self._most + 1 if size < 0 else min(size, self._most + 1))
        if len(data) > self._most:
            raise _TooLarge
        return data


class Archive:
    """A checked zip. Thread-safe. Close it after use; a stream that it was given stays open.

    Attributes:
        names: of regular files, in NFC with "/", sorted, without __MACOSX and dot files.

    Raises ListError: ``archive_unsafe``, ``archive_encrypted``, ``archive_too_large``,
    ``archive_unreadable``.
    """

    def __init__(self, source: Path | BinaryIO, limits: Limits = LOCAL) -> None:
        self._own: BinaryIO | None = None
        try:
            stream = source if not isinstance(source, Path) else source.open("rb")
            self._own = stream if isinstance(source, Path) else None
            bounded = cast(BinaryIO, _Bounded(stream, limits.members * _DIRECTORY_BYTES))
            self._zip = zipfile.ZipFile(bounded)
            self._members = _checked(self._zip.infolist(), limits)
        except BaseException as error:
            self.close()
            if isinstance(error, _TooLarge):
                raise _too_large() from error
            if isinstance(error, (*_DAMAGE, ValueError)):  # ValueError: a name that is not in UTF-8
                raise _damaged() from error
            raise
        self.names: Sequence[str] = sorted(self._members)

    def find_list(self) -> str | None:
        """Return the name of the list, None without one. Raises ListError: ``list_ambiguous``."""
        lists = [name for name in self.names if name.lower().endswith(LISTS)]
        highest = min((name.count("/") for name in lists), default=0)
        found = [name for name in lists if name.count("/") == highest]
        if len(found) > 1:
            raise ListError(
                f"The zip has {len(found)} lists.", code=ListCode.LIST_AMBIGUOUS, remedy="Leave one in it."
            )
        return found[0] if found else None

    def size(self, name: str) -> int:
        """Return the most bytes that a member has. Raises KeyError."""
        return self._members[name].file_size

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return a member. Raises KeyError, InputError: ``image_bytes_too_large``, ``image_unreadable``."""
        member = self._members[name]
        if member.file_size > max_bytes:
            raise InputError(
                f"The file in the zip has {member.file_size} bytes; at most {max_bytes} are allowed.",
                code=InputCode.IMAGE_BYTES_TOO_LARGE,
                remedy="Make it smaller.",
                bytes=member.file_size,
                limit=max_bytes,
            )
        try:
            with self._zip.open(member) as stream:
                return stream.read(max_bytes)
        except _DAMAGE as error:
            raise InputError(
                "The file in the zip is damaged.",
                code=InputCode.IMAGE_UNREADABLE,
                remedy="Make the zip again.",
            ) from error

    def tags(self) -> int:
        """Return how many "<" all parts have, those that ``names`` leaves out included; in any encoding that
        expat reads, this byte is in each. Raises ListError, also for markup that expat scans in quadratic
        time: a longer stretch without "<" than a cell has, a comment, a second processing instruction."""
        count = 0
        for member in self._zip.infolist():
            if member.compress_type not in _METHODS:
                raise _unsafe("The zip uses a method other than deflate.", "Make it with the usual method.")
            try:
                with self._zip.open(member) as part:
                    count += _tags(iter(lambda: part.read(_BLOCK), b""))
            except _DAMAGE as error:
                raise _damaged() from error
        return count

    def close(self) -> None:
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_parts(stream: BinaryIO, limits: Limits, most_tags: int | None = None) -> None:
    """Check the zip that a sheet is, before a library reads it; ``most_tags`` bounds the tags of all parts
    together. Raises ListError."""
    with Archive(stream, limits) as archive:
        if most_tags is not None and archive.tags() > most_tags:
            raise _too_large()
    stream.seek(0, io.SEEK_SET)


def _tags(blocks: Iterator[bytes]) -> int:
    """Count "<" in one part; see Archive.tags."""
    count = instructions = stretch = 0
    xml: bool | None = None  # else expat ends at the first byte, as with a picture
    last = b""
    for block in blocks:
        count += block.count(b"<")
        text = last + block.replace(b"\0", b"")  # UTF-16
        if xml is None and (begin := text.lstrip(_BEFORE_XML)):
            xml = begin.startswith(b"<")
        if not xml:
            continue
        first, *others = map(len, text.split(b"<"))
        longest = max(stretch + first, *others, 0)
        stretch = others[-1] if others else stretch + first
        instructions += text.count(b"<?")
        if longest > _STRETCH or instructions > 1 or b"<!" in text:
            raise _unsafe("A part of the workbook has unusual markup.", "Save it again, or as CSV.")
        last = b"<" if text.endswith(b"<") else b""
    return count


def _checked(members: Iterable[zipfile.ZipInfo], limits: Limits) -> dict[str, zipfile.ZipInfo]:
    """The members to use by their names. Raises ListError."""
    kept: dict[str, zipfile.ZipInfo] = {}
    size = 0
    for count, member in enumerate(members, 1):
        size += member.file_size
        if count > limits.members or size > limits.bytes:
            raise _too_large()
        name = _safe_name(member)
        if member.flag_bits & _ENCRYPTED:
            raise ListError(
                "The zip is encrypted.", code=ListCode.ARCHIVE_ENCRYPTED, remedy="Make it without a password."
            )
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _unsafe("The zip has a link or a special file.", "Put the files themselves into it.")
        if member.is_dir() or name.startswith("__MACOSX/") or "/." in f"/{name}":
            continue
        if _NESTED.search(name):
            raise _unsafe("The zip has another archive in it.", "Unpack that first.")
        if member.compress_type not in _METHODS:
            raise _unsafe("The zip uses a method other than deflate.", "Make it with the usual method.")
        if name in kept:
            raise _unsafe("The zip has two members of one name.", "Rename one.")
        kept[name] = member
    return kept


def _safe_name(member: zipfile.ZipInfo) -> str:
    """The member's name in NFC. Raises ListError."""
    decoded = _decoded(member)
    name = unicodedata.normalize("NFC", decoded[: MAX_NAME + 1].replace("\\", "/"))
    if (
        "\0" in name
        or len(decoded) > MAX_NAME
        or name.startswith("/")
        or _DRIVE.match(name)
        or ".." in name.split("/")
    ):
        raise _unsafe("The zip has a name that leads out of it.", "Use plain relative names.")
    return posixpath.normpath(name) if name else ""


def _decoded(member: zipfile.ZipInfo) -> str:
    """The name as its writer meant it: without the flag for UTF-8, zipfile decodes it as cp437."""
    if member.flag_bits & _UTF_8:
        return member.orig_filename
    raw = member.orig_filename.encode("cp437")
    for encoding in ("utf-8", "gb18030"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return member.orig_filename


def _unsafe(message: str, remedy: str) -> ListError:
    return ListError(message, code=ListCode.ARCHIVE_UNSAFE, remedy=remedy)


def _damaged() -> ListError:
    return ListError(
        "The zip is damaged or not a zip.", code=ListCode.ARCHIVE_UNREADABLE, remedy="Make it again."
    )


def _too_large() -> ListError:
    return ListError(
        "The zip has more members or bytes than allowed.",
        code=ListCode.ARCHIVE_TOO_LARGE,
        remedy="Split it into several.",
    )
