"""Zips as they are sent, hostile ones included."""

from __future__ import annotations

import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace

import pytest

from batch.archive import MAX_NAME, Archive
from batch.pictures import DataUrls, ZipPictures
from batch.rows import LOCAL, Limits
from service.contract.errors import InputError
from tests.batch.zips import refused, stream, zipped

LINK = zipfile.ZipInfo("link.jpg")
LINK.create_system = 3
LINK.external_attr = (stat.S_IFLNK | 0o777) << 16
PIPE = zipfile.ZipInfo("pipe.jpg")
PIPE.external_attr = (stat.S_IFIFO | 0o644) << 16


def twice() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zipped(("a.jpg", b"1"), ("a.jpg", b"2"))


def encrypted() -> bytes:
    data = bytearray(zipped(("a.jpg", b"1")))
    for head, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(head) + place] |= 1
    return bytes(data)


def long_name(length: int = 300_000) -> bytes:
    """A directory of many megabytes for one member."""
    info = zipfile.ZipInfo("a.jpg")
    data = bytearray(zipped((info, b"1")))
    data[data.index(b"PK\5\6") + 12 : data.index(b"PK\5\6") + 16] = struct.pack("<L", length)
    return b"\0" * length + bytes(data)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(data, code, id=name)
        for name, data, code in [
            ("parent", zipped(("../a.jpg", b"1")), "archive_unsafe"),
            ("inner parent", zipped(("x/../../a.jpg", b"1")), "archive_unsafe"),
            ("backslashes", zipped(("..\\a.jpg", b"1")), "archive_unsafe"),
            ("absolute", zipped(("/etc/a.jpg", b"1")), "archive_unsafe"),
            ("drive", zipped(("C:/a.jpg", b"1")), "archive_unsafe"),
            ("link", zipped((LINK, b"/etc/passwd")), "archive_unsafe"),
            ("pipe", zipped((PIPE, b"")), "archive_unsafe"),
            ("zip within", zipped(("more.zip", zipped(("a.jpg", b"1")))), "archive_unsafe"),
            ("tar within", zipped(("x/more.TAR", b"1")), "archive_unsafe"),
            ("twice", twice(), "archive_unsafe"),
            ("twice by backslash", zipped(("x/a.jpg", b"1"), ("x\\a.jpg", b"2")), "archive_unsafe"),
            ("bzip2", zipped(("a.jpg", b"1" * 99), method=zipfile.ZIP_BZIP2), "archive_unsafe"),
            ("encrypted", encrypted(), "archive_encrypted"),
            ("not a zip", b"image,text\n", "archive_unreadable"),
            ("cut", zipped(("a.jpg", b"1" * 999))[:-9], "archive_unreadable"),
            ("empty file", b"", "archive_unreadable"),
        ]
    ],
)
def test_an_unsafe_zip_is_refused(data: bytes, code: str) -> None:
    assert refused(lambda: Archive(stream(data))) == code


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        (zipped(*((f"{number}.jpg", b"") for number in range(5))), replace(LOCAL, members=4)),
        (zipped(("a.jpg", b"\0" * 5_000), ("b.jpg", b"\0" * 5_000)), replace(LOCAL, bytes=9_999)),
        (long_name(), Limits(members=10)),
    ],
    ids=["members", "bytes", "directory"],
)
def test_members_and_bytes_are_bounded(data: bytes, limits: Limits) -> None:
    assert refused(lambda: Archive(stream(data), limits)) == "archive_too_large"
    roomy = Limits()
    if data[:2] == b"PK":
        Archive(stream(data), roomy).close()


def test_a_lying_header_inflates_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member of 50 MB that declares 10 bytes gives at most 10."""
    data = bytearray(zipped(("a.jpg", b"\0" * 50_000_000)))
    for head, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = data.index(head) + place
        data[at : at + 4] = struct.pack("<L", 10)
    with Archive(stream(bytes(data)), Limits(bytes=100)) as archive:
        assert archive.size("a.jpg") == 10
        with pytest.raises(InputError) as caught:
            archive.read("a.jpg", 1_000)
    assert caught.value.code == "image_unreadable"


def test_a_member_is_bounded_by_its_reader() -> None:
    with Archive(stream(zipped(("a.jpg", b"\0" * 5_000)))) as archive, pytest.raises(InputError) as caught:
        archive.read("a.jpg", 4_999)
    assert caught.value.code == "image_bytes_too_large"


def test_names_are_read_as_they_were_meant() -> None:
    flagged = zipped(("图/a.jpg", b"1"))
    plain = zipped(("xxxx/b.jpg", b"2"))
    with Archive(stream(flagged)) as archive:
        assert archive.names == ["图/a.jpg"]
    with Archive(stream(plain.replace(b"xxxx", "图像".encode("gb18030")))) as archive:
        assert archive.names == ["图像/b.jpg"]
        assert archive.read("图像/b.jpg", 9) == b"2"


def test_what_systems_add_is_ignored() -> None:
    data = zipped(
        ("__MACOSX/._a.zip", b""), ("x/.DS_Store", b""), (".hidden/a.csv", b""), ("x/", b""), ("x/a.csv", b"")
    )
    with Archive(stream(data)) as archive:
        assert (archive.names, archive.find_list()) == (["x/a.csv"], "x/a.csv")


def test_the_highest_list_is_the_list() -> None:
    with Archive(stream(zipped(("x/a.csv", b""), ("b.jsonl", b"")))) as archive:
        assert archive.find_list() == "b.jsonl"
    with Archive(stream(zipped(("a.csv", b""), ("b.tsv", b"")))) as archive:
        assert refused(archive.find_list) == "list_ambiguous"


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return caught.value.code


def test_a_picture_is_a_member_or_a_data_url() -> None:
    data = zipped(("x/list.csv", b""), ("x/a.jpg", b"near"), ("b.jpg", b"root"))
    with Archive(stream(data)) as archive:
        pictures = ZipPictures(archive, 100, "x")
        assert [pictures.open(name) for name in ("a.jpg", "./a.jpg", "x\\a.jpg", "b.jpg")] == [
            *(b"near", b"near", b"near", b"root")
        ]
        assert pictures.open("data:image/png;base64,aGVsbG8=") == b"hello"
        for name in ("/etc/passwd", "../../etc/passwd", "https://pictures.example/a.jpg", "file:///a"):
            assert code_of(lambda name=name: pictures.open(name)) == "image_elsewhere"  # type: ignore[misc]
        assert code_of(lambda: pictures.open("c.jpg")) == "no_image"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("a.jpg", "image_elsewhere"),
        ("/etc/passwd", "image_elsewhere"),
        ("data:image/png,plain", "image_elsewhere"),
        ("data:;base64,a$b", "image_unreadable"),
        ("data:;base64,abc", "image_unreadable"),
        ("data:;base64," + "A" * 200, "image_bytes_too_large"),
    ],
)
def test_a_list_alone_takes_data_urls_only(url: str, code: str) -> None:
    assert code_of(lambda: DataUrls(100).open(url)) == code


ACCENTS = "a" + "\u0301\u0327" * 2_000  # to normalize a run takes quadratic time, with the GIL held


def test_a_long_name_is_not_normalized(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def normalize(form: str, text: str) -> str:
        lengths.append(len(text))
        return text

    monkeypatch.setattr("unicodedata.normalize", normalize)
    assert refused(lambda: Archive(stream(zipped((ACCENTS, b"1"))))) == "archive_unsafe"
    with Archive(stream(zipped(("a.jpg", b"1")))) as archive:
        assert code_of(lambda: ZipPictures(archive, 100).open(ACCENTS)) == "no_image"
    assert lengths
    assert max(lengths) <= MAX_NAME + 1
