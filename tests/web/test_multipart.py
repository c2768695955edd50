"""The upload form parser: what is accepted, what is refused, and that nothing is decoded."""

from __future__ import annotations

from pathlib import Path

import pytest

from page.upload_routes import only_pictures, paths_of
from service.http.multipart import (
    FIELD_BYTES,
    HEADER_BYTES,
    PART_HEADERS,
    PARTS,
    Form,
    FormError,
    boundary_of,
)


class Sink:
    """Keeps a file's content in memory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.content = b""
        self.discarded = False

    def write(self, data: bytes) -> None:
        self.content += data

    def finish(self) -> Path:
        return Path(f"/{self.name}")

    def discard(self) -> None:
        self.discarded = True


def read(body: bytes, size: int = 1 << 16) -> list[Sink]:
    """Parse a form in pieces of ``size`` bytes; return its files."""
    sinks: list[Sink] = []

    def create(name: str) -> Sink:
        sinks.append(Sink(name))
        return sinks[-1]

    form = Form(b"XX", only_pictures(create))
    try:
        for start in range(0, len(body), size):
            form.feed(body[start : start + size])
        assert paths_of(form) == [Path(f"/{sink.name}") for sink in sinks]
    except FormError:
        form.discard()
        assert all(sink.discarded for sink in sinks)
        raise
    return sinks


def part(
    content: bytes, disposition: str = 'form-data; name="files"; filename="a.png"', more: str = ""
) -> bytes:
    return f"--XX\r\nContent-Disposition: {disposition}\r\n{more}\r\n".encode() + content + b"\r\n"


END = b"--XX--\r\n"
FILE = part(b"content")


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 16])
@pytest.mark.parametrize(
    "content",
    [b"", b"content", b"\r\n--X\r\n--XY\r\n-\r\n", b"\r\n" * 100, bytes(range(256)) * 10, b"--XX--"],
    ids=repr,
)
def test_a_files_content_is_unchanged(content: bytes, size: int) -> None:
    body = part(b"a", 'form-data; name="text"') + part(content) + part(b"second") + END
    assert [sink.content for sink in read(body, size)] == [content, b"second"]


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('form-data; name="files"; filename="a.png"', "a.png"),
        ("form-data; name=files; filename=a.png", "a.png"),
        ('FORM-DATA; name="files"; filename=""', ""),
        ('form-data; name="files"; filename="é漢.png"', "é漢.png"),
        ('form-data; name="files"; filename="a%22b.png"', 'a"b.png'),
        ('form-data; name="files"; filename="a.png"; filename*=UTF-8\'\'b.png', "a.png"),
    ],
)
def test_file_names_are_parsed_in_all_common_forms(disposition: str, name: str) -> None:
    assert [sink.name for sink in read(part(b"x", disposition) + END)] == [name]


@pytest.mark.parametrize(
    "more", ["Content-Type: text/plain; charset=punycode\r\n", "Content-Transfer-Encoding: base64\r\n"]
)
def test_encodings_of_a_part_are_ignored(more: str) -> None:
    assert [sink.content for sink in read(part(b"YWJj", more=more) + END)] == [b"YWJj"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        END,
        b"--XX",
        b"--XXX\r\n",
        b"--XX\r\n\r\nno header\r\n" + END,
        part(b"x", "form-data"),
        part(b"x", 'attachment; name="files"; filename="a"') + END,
        part(b"x", 'form-data; name="files"') + END,
        part(b"x", 'form-data; name="image"; filename="a.png"') + END,
        part(b"x", 'form-data; name="text"') + END,
        part(b"x" * (FIELD_BYTES + 1), 'form-data; name="text"') + FILE + END,
        FILE + part(b"x" * (FIELD_BYTES // 2 + 1), 'form-data; name="a"') * 2 + END,
        FILE,
        FILE[:-3],
        FILE + b"--XX-",
        FILE * (PARTS + 1) + END,
        part(b"", more="a: b\r\n" * PART_HEADERS) + END,
        part(b"", more=f"a: {'b' * HEADER_BYTES}\r\n") + END,
        part(b"", more="a" * HEADER_BYTES) + END,
        part(b"", more="bad header: x\r\n") + END,
        part(b"", more=": x\r\n") + END,
        b"x" * 100_000 + FILE + END,
        FILE + END + b"x" * 100_000,
    ],
    ids=range(24),
)
@pytest.mark.parametrize("size", [1000, 1 << 16])
def test_malformed_forms_are_refused_and_leave_no_file(
    body: bytes, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FormError):
        read(body, size)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/form-data; boundary=XX", b"XX"),
        ('Multipart/Form-Data;boundary="a b"', b"a b"),
        (
            "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
            b"----WebKitFormBoundary7MA4YWxkTrZu0gW",
        ),
        ("multipart/form-data; boundary=" + "a" * 70, b"a" * 70),
    ],
)
def test_the_boundary_is_read(header: str, boundary: bytes) -> None:
    assert boundary_of(header) == boundary


@pytest.mark.parametrize(
    "header",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/mixed; boundary=XX",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="',
        "multipart/form-data; boundary=" + "a" * 71,
        "multipart/form-data; boundary=XX; charset=punycode",
        "multipart/form-data; charset=bz2; boundary=XX",
        "multipart/form-data; boundary=XX; boundary=YY",
        "multipart/form-data; boundary=X\u00e9",
        'multipart/form-data; a="' + '\\"' * 30_000 + '"; boundary=XX',
        "multipart/form-data; boundary=XX" + "; " * 30_000,
    ],
    ids=lambda header: header[:40],
)
def test_other_content_types_and_parameters_are_refused(header: str) -> None:
    with pytest.raises(FormError):
        boundary_of(header)
