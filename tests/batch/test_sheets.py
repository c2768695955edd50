"""XLSX, an optional form, and hostile ones."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile

import openpyxl
import pytest

from batch import sheets
from batch.lists import open_list
from batch.rows import LOCAL, Limits, Row
from tests.batch.zips import refused, stream, zipped

NAMES = ("xl/worksheets/sheet1.xml", "xl/sharedStrings.xml")


def book(*values: tuple[object, ...]) -> bytes:
    made = openpyxl.Workbook()
    for row in values:
        made.active.append(row)  # type: ignore[union-attr]
    file = io.BytesIO()
    made.save(file)
    return file.getvalue()


def with_part(name: str, change: dict[str, str]) -> bytes:
    """A small book in which a part is replaced."""
    source = io.BytesIO(book(("image", "text"), ("a.jpg", "x")))
    members: list[tuple[str | zipfile.ZipInfo, bytes]] = []
    with zipfile.ZipFile(source) as archive:
        for part in archive.namelist():
            content = archive.read(part).decode()
            for old, new in change.items() if part == name else ():
                assert old in content
                content = content.replace(old, new, 1)
            members.append((part, content.encode()))
    return zipped(*members)


def rows(data: bytes, limits: Limits = LOCAL) -> list[Row]:
    with open_list(stream(data), "list.xlsx", limits=limits) as found:
        return list(found)


def test_values_are_read_as_text() -> None:
    found = rows(book(("image", "text", "n", None), ("a.jpg", 5, 2.0), (), ("b.jpg", True, None)))
    assert [(row.number, row.image, row.text, row.fields["n"]) for row in found] == [
        *((2, "a.jpg", "5", "2"), (4, "b.jpg", "true", ""))
    ]


def test_a_formula_has_no_value() -> None:
    (row,) = rows(book(("image", "text"), ("a.jpg", "=1+1")))
    assert row.error is not None
    assert row.error.code == "no_text"


@pytest.mark.parametrize(
    "data",
    [
        zipped(("a.txt", b"not a book")),
        with_part(NAMES[0], {"<sheetData>": "<sheetData><row>"}),
        with_part(NAMES[0], {"<worksheet": '<!DOCTYPE x [<!ENTITY a "aaaa">]><worksheet'}),
        with_part(
            NAMES[0], {"<worksheet": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><worksheet'}
        ),
    ],
    ids=["another zip", "damaged", "entity", "foreign file"],
)
def test_a_damaged_or_hostile_book_is_refused(data: bytes) -> None:
    assert refused(lambda: rows(data)) == "list_unreadable"


def test_what_is_no_zip_is_refused() -> None:
    assert refused(lambda: rows(b"\xd0\xcf\x11\xe0" + b"\0" * 600)) == "archive_unreadable"


def test_inflated_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = with_part(NAMES[0], {"<sheetData>": "<sheetData>" + " " * (sheets.MAX_BYTES + 1)})
    assert len(bomb) < 1 << 20
    assert refused(lambda: rows(bomb)) == "archive_too_large"
    assert refused(lambda: rows(book(("image", "text")), Limits(list_bytes=6_000))) == "archive_too_large"


def test_cells_are_bounded() -> None:
    """One cell far below: openpyxl fills the rows between with empty ones."""
    far = '<sheetData><row r="1"><c r="A1" t="str"><v>image</v></c><c r="B1" t="str"><v>text</v></c></row>'
    last = '<row r="99999999"><c r="A99999999"><v>1</v></c></row></sheetData><!--'
    data = with_part(
        NAMES[0], {"<sheetData>": far + last, "</sheetData>": "", "</worksheet>": "--></worksheet>"}
    )
    assert refused(lambda: rows(data)) == "list_too_large"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("part", ["xl/worksheets/sheet2.xml", "xl/.hidden.xml"])
def test_tags_of_a_served_book_are_bounded(part: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 MB of empty cells in a row take 175 MB; a part with any name can be the sheet."""
    served, content = Limits(rows=10), book(("image", "text"), ("a.jpg", "x"))
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(part, f"<row>{'<c/>' * 5_000}</row>".encode(encoding))
    monkeypatch.setattr(sheets, "SERVED_TAGS", 5_000)
    assert len(rows(content, served)) == 1
    assert refused(lambda: rows(file.getvalue(), served)) == "archive_too_large"
    monkeypatch.setattr(sheets, "SERVED_BYTES", len(content))
    assert refused(lambda: rows(content, served)) == "archive_too_large"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "markup",
    [
        f"<row {'x' * (1 << 20)}='1'/>",
        f"<row>{' ' * (1 << 20)}y</row>",
        f"{' ' * (1 << 20)}<row/><!-- -->",
        f"{'<c/>' * (1 << 18)}<!-- -->",
        "<?one?><?two?><row/>",
    ],
    ids=["tag", "text", "comment", "late comment", "instructions"],
)
def test_markup_that_expat_scans_slowly_is_refused(markup: str, encoding: str) -> None:
    """The time grows with the square of a token's length: 8 MB of attributes in one tag took 37 s."""
    served, content = Limits(rows=10), book(("image", "text"), ("a.jpg", "x" * 32_767))
    assert len(rows(content, served)) == 1
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/media/image1.png", b"\x89PNG" + b"<!-- " + b" " * (1 << 21))
    assert len(rows(file.getvalue(), served)) == 1, "a picture is not XML"
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet2.xml", markup.encode(encoding))
    assert refused(lambda: rows(file.getvalue(), served)) == "archive_unsafe"


@pytest.mark.parametrize("missing", ["openpyxl", "defusedxml"])
def test_without_the_packages_it_says_what_to_install(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import io\n"
        "from batch.lists import open_list\n"
        "from batch.rows import ListError\n"
        "try:\n"
        "    open_list(io.BytesIO(b'PK'), 'list.xlsx')\n"
        "except ListError as error:\n"
        "    print(error.code, 'requirements-xlsx.txt' in error.remedy)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout == "xlsx_not_installed True\n", done.stderr
