"""The batch tab's example, and when there is no tab."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from batch.lists import open_list
from batch.pictures import ZipPictures
from page import card
from page.batch.example import example_zip
from page.batch.frame import EXAMPLE_PATH
from service.api_keys import make
from tests.web.client import serving

MAX_BYTES = 1 << 20


def test_the_example_is_a_list_of_all_examples_and_their_pictures() -> None:
    examples = card.load("demo").examples
    with open_list(io.BytesIO(example_zip(examples)), "example.zip") as rows:
        assert rows.archive is not None
        pictures = ZipPictures(rows.archive, MAX_BYTES)
        for row, example in zip(rows, examples, strict=True):
            assert row.error is None
            assert (row.text, row.premise, row.fields["expected"]) == (
                example.hypothesis,
                example.premise,
                example.label,
            )
            assert pictures.open(row.image) == example.image.read_bytes()


def test_examples_with_pictures_of_one_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    examples = []
    for content in (b"one", b"other"):
        image = tmp_path / content.decode() / "picture.png"
        image.parent.mkdir()
        image.write_bytes(content)
        examples.append(card.Example(image, "a circle", premise="it is red"))
    with open_list(io.BytesIO(example_zip(examples)), "example.zip") as rows:
        assert rows.archive is not None
        read = [ZipPictures(rows.archive, MAX_BYTES).open(row.image) for row in rows]
    assert read == [b"one", b"other"]


def test_the_server_sends_the_example_and_nothing_beside_it(tmp_path: Path) -> None:
    with serving(tmp_path) as page, httpx.Client(base_url=page.base, timeout=120.0) as client:
        answer = client.get(f"/{EXAMPLE_PATH}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
        assert answer.content[:2] == b"PK"
        assert [client.get(path).status_code for path in ("/batch/tab.js", "/batch/")] == [404, 404]
        assert client.post(f"/{EXAMPLE_PATH}", json={}).status_code == 404


@pytest.mark.parametrize(("flags", "shown"), [([], True), (["--page", "open"], False)])
def test_the_tab_is_missing_where_the_browser_would_need_a_key(
    tmp_path: Path, flags: Sequence[str], shown: bool
) -> None:
    if flags:
        make(tmp_path / "keys", "shop")
        flags = [*flags, "--api-keys-file", str(tmp_path / "keys")]
    with serving(tmp_path, *flags) as page, httpx.Client(base_url=page.base, timeout=120.0) as client:
        components = client.get("/config").json()["components"]
    ids = {component["props"].get("elem_id") for component in components}
    assert ("batch-host" in ids, "ask" in ids) == (shown, True)
