"""Work lists of every form, with the rows that cannot be judged."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from batch import jsonlines, lists, tables
from batch.lists import open_list
from batch.rows import LOCAL, Columns, Limits, ListError, Row
from tests.batch.zips import refused, stream, zipped


def rows(
    data: bytes | str, name: str = "list.csv", columns: Columns | None = None, limits: Limits = LOCAL
) -> list[Row]:
    content = data.encode() if isinstance(data, str) else data
    with open_list(stream(content), name, columns, limits) as found:
        return list(found)


def texts(data: bytes | str, name: str = "list.csv") -> list[tuple[str, str]]:
    return [(row.image, row.text) for row in rows(data, name)]


@pytest.mark.parametrize("delimiter", tables.DELIMITERS)
def test_the_delimiter_is_found_out(delimiter: str) -> None:
    other = "," if delimiter != "," else ";"
    data = f'image|n{delimiter}image{delimiter}text\n1{delimiter}a.jpg{delimiter}"x{delimiter}y{other}z"\n'
    data = data.replace("image|n", "number")
    with open_list(stream(data.encode()), "list.csv") as found:
        assert (found.delimiter, list(found.columns)) == (delimiter, ["number", "image", "text"])
        assert [(row.image, row.text) for row in found] == [("a.jpg", f"x{delimiter}y{other}z")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "gbk"])
def test_the_encoding_is_found_out(encoding: str) -> None:
    data = "image,text\n图片.jpg,红色的圆形\n"
    assert texts(data.encode(encoding)) == [("图片.jpg", "红色的圆形")]


@pytest.mark.parametrize("data", [b"image,text\n\xff\xff\xff,\x80\n", "image,text\n".encode("utf-16-le")])
def test_what_is_not_text_is_refused(data: bytes) -> None:
    assert refused(lambda: rows(data)) == "list_encoding"


def test_a_row_has_the_number_of_its_first_line() -> None:
    found = rows('image,text\n\n"a\n.jpg","x\r\ny"\nb.jpg,z\n,,\nc.jpg,w')
    assert [(row.number, row.text) for row in found] == [(3, "x\r\ny"), (6, "z"), (8, "w")]


def test_a_bad_row_stays_a_row_with_its_code() -> None:
    data = 'image,text,n\na.jpg,x,1\nb.jpg\nc,d,e,f\n,y,1\nd.jpg,,1\ne.jpg,"x"y,1\nf.jpg,z,1,,\n'
    codes = [(row.number, row.error.code if row.error else None) for row in rows(data)]
    assert codes == [
        *((2, None), (3, "too_few_columns"), (4, "too_many_columns"), (5, "no_image"), (6, "no_text")),
        *((7, "malformed"), (8, None)),
    ]


def test_a_quote_that_is_not_closed_is_one_bad_row() -> None:
    found = rows('image,text\na.jpg,"x\nb.jpg,y\n')
    assert [(row.number, row.error and row.error.code) for row in found] == [(2, "malformed")]


def test_a_row_that_is_too_long_is_left_out_and_the_next_is_read() -> None:
    limits = replace(LOCAL, line_bytes=50)
    for long in ("x" * 60, '"' + "y\n" * 40 + '"'):
        found = rows(f"image,text\na.jpg,{long}\nb.jpg,z\n", limits=limits)
        assert found[0].error is not None
        assert (found[0].number, found[0].error.code) == (2, "line_too_long")
        assert (found[-1].image, found[-1].error) == ("b.jpg", None)


def test_many_delimiters_are_not_split() -> None:
    (row,) = rows("image,text\n" + "," * 1_000_000 + "\n")
    assert row.error is not None
    assert row.error.code == "line_too_long"


@pytest.mark.parametrize(
    "header",
    ["image,text", "Image Path,CAPTION", "file-name,Title", "id,premise,picture,hypothesis", "图片,描述"],
)
def test_columns_are_found_by_convention(header: str) -> None:
    cells = {"id": "7", "premise": "p"}
    found = texts(f"{header}\n" + ",".join(cells.get(name, "x") for name in header.split(",")) + "\n")
    assert found == [("x", "x")]


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("image,words", "column_missing"),
        ("what,text", "column_missing"),
        ("image,title,description", "column_ambiguous"),
        ("image,text,text", "column_ambiguous"),
        ("photo,path,text", "column_ambiguous"),
    ],
)
def test_missing_and_ambiguous_columns_are_refused_with_the_columns_found(header: str, code: str) -> None:
    with pytest.raises(ListError) as caught:
        rows(f"{header}\na,b,c\n")
    assert caught.value.code == code
    assert list(caught.value.columns) == header.split(",")


def test_a_canonical_name_is_preferred() -> None:
    assert texts("image,path,text,title\na,b,c,d\n") == [("a", "c")]


def test_columns_can_be_named() -> None:
    columns = Columns("Where", "what", "given", "key")
    (row,) = rows("key,where,given,What\n7,a.jpg,p,x\n", columns=columns)
    assert (row.image, row.text, row.premise, row.id) == ("a.jpg", "x", "p", "7")
    assert refused(lambda: rows("image,text\na,b\n", columns=Columns(text="words"))) == "column_missing"


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_list_is_refused(data: bytes) -> None:
    assert refused(lambda: rows(data)) == "list_empty"


def test_lines_of_json_are_those_of_the_pipe() -> None:
    lines: list[object] = [
        {"image": "a.jpg", "text": "x", "premise": "p", "id": 7, "label": "Yes"},
        b"not json",
        {"image": 5, "text": "x"},
        {"text": "x"},
        {"image": "a.jpg", "text": ["x"]},
        {"image": "a.jpg", "text": "x", "id": [1]},
    ]
    data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    found = rows(data, "list.jsonl")
    assert [row.error.code if row.error else None for row in found] == [
        *(None, "malformed", "not_an_image", "no_image", "no_text", "malformed")
    ]
    assert (found[0].premise, found[0].id, found[0].fields["id"]) == ("p", "7", 7)
    assert [row.number for row in found] == [1, 2, 3, 4, 5, 6]


def test_lines_of_json_may_use_other_names() -> None:
    assert texts('{"file": "a.jpg", "caption": "x"}', "list.jsonl") == [("a.jpg", "x")]
    assert refused(lambda: rows('{"a": 1}', "list.jsonl")) == "column_missing"


def test_rows_and_bytes_are_bounded_if_asked_for() -> None:
    data = "image,text\n" + "a.jpg,x\n" * 5
    assert len(rows(data, limits=replace(LOCAL, rows=5))) == 5
    assert refused(lambda: rows(data, limits=replace(LOCAL, rows=4))) == "list_too_large"
    assert refused(lambda: rows(data, limits=replace(LOCAL, list_bytes=40))) == "list_too_large"
    packed = zipped(("list.csv", data.encode()))
    assert refused(lambda: rows(packed, "a.zip", limits=replace(LOCAL, list_bytes=40))) == "list_too_large"


def test_a_zip_has_a_list_or_pairs() -> None:
    listed = zipped(("x/list.csv", b"image,text\na.jpg,x\n"), ("x/a.jpg", b""))
    with open_list(stream(listed), "a.zip") as found:
        assert (found.form, found.folder, found.archive is not None) == ("csv", "x", True)
        assert [row.image for row in found] == ["a.jpg"]
    paired = zipped(("a.jpg", b""), ("a.txt", "红\n\n蓝\n".encode("gbk")), ("b.png", b""), ("c.txt", b"x"))
    found_rows = rows(paired, "a.zip")
    assert [(row.number, row.image, row.text) for row in found_rows[:2]] == [
        *((1, "a.jpg", "红"), (2, "a.jpg", "蓝"))
    ]
    assert [row.error.code for row in found_rows[2:] if row.error] == ["no_text", "no_image"]
    assert refused(lambda: rows(zipped(("a.jpg", b"")), "a.zip")) == "list_missing"


def test_a_folder_of_pairs(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name, content in (("b.jpg", ""), ("b.txt", "two"), ("deep/a.PNG", ""), ("deep/a.txt", "one\n")):
        (tmp_path / name).write_text(content)
    (tmp_path / ".hidden.jpg").touch()
    with open_list(tmp_path, tmp_path.name) as found:
        assert found.form == "pairs"
        assert [(row.number, row.image, row.text) for row in found] == [
            *((1, "b.jpg", "two"), (2, "deep/a.PNG", "one"))
        ]


@pytest.mark.parametrize(("name", "code"), [("list.doc", "list_form"), ("list", "list_form")])
def test_other_forms_are_refused(name: str, code: str) -> None:
    assert refused(lambda: rows("image,text\n", name)) == code


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refused(lambda: open_list(tmp_path / "no.csv", "no.csv")) == "list_missing"


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.jsonl"])
@pytest.mark.parametrize("line", ["\n", "\r", "[]\n"])
def test_lines_without_a_row_are_bounded(name: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read at 1 MB/s or less, and a zip holds 256 MB of them in 256 KB."""
    bounded = replace(LOCAL, rows=4)
    read: list[object] = []
    for module, reader in ((jsonlines, "numbered"), (tables, "open_table")):
        monkeypatch.setattr(module, reader, lambda stream, *_: read.append(stream) or iter(()))
    assert refused(lambda: rows(line * 5 * lists.LINES, name, limits=bounded)) == "list_too_large"
    assert read == []


def test_lines_of_json_are_counted_before_they_are_all_parsed() -> None:
    data = io.BytesIO(b"[]\n" * 1_000)
    assert refused(lambda: open_list(data, "list.jsonl", limits=replace(LOCAL, rows=20))) == "list_too_large"
    assert data.tell() < 100


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("list.csv", "image,text,{}\na.jpg,x,y\n"),
        ("list.jsonl", '{{"image": "a.jpg", "text": "x", "{}": 1}}'),
    ],
)
def test_a_long_name_of_a_column_is_refused(name: str, data: str) -> None:
    assert len(rows(data.format("n" * 1000), name)) == 1
    assert refused(lambda: rows(data.format("n" * 1001), name)) == "list_unreadable"
