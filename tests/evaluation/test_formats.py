"""Each format's reader, on data with the published files' fields, sound and damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation import formats
from evaluation.examples import Dataset, Example
from service.contract.errors import InputError
from tests.evaluation import world

LIMIT = 1 << 24
LABELS = {"yes": "Yes", "no": "No", "maybe": "Maybe"}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return world.draw(tmp_path / "pictures", world.pairs())


def read(path: Path, pictures: Path | None = None, form: str | None = None) -> Dataset:
    with formats.opened(path, form, pictures, LIMIT) as data:
        return data


def check(data: Dataset, form: str, premise: str | None) -> None:
    pairs = world.pairs()
    assert data.form == form
    assert not data.pairwise
    assert [example.label for example in data.examples] == [LABELS[pair.sentence.answer] for pair in pairs]
    assert [example.row.text for example in data.examples] == [pair.sentence.text for pair in pairs]
    assert {example.row.premise for example in data.examples} == {premise}
    assert len({example.id for example in data.examples}) == len(pairs)
    for example in data.examples:
        data.pictures.open(example.row.image)


@pytest.mark.parametrize("key", ["Flickr30K_ID", "Flikr30kID"])
def test_snli_ve_has_its_caption_as_premise(tmp_path: Path, pictures: Path, key: str) -> None:
    path = world.snli_ve(tmp_path / "snli_ve_dev.jsonl", world.pairs(), key)
    check(read(path, pictures), "snli-ve", world.PREMISE)


def test_e_snli_ve_has_no_premise(tmp_path: Path, pictures: Path) -> None:
    path = world.e_snli_ve(tmp_path / "esnlive_test.csv", world.pairs())
    check(read(path, pictures), "e-snli-ve", None)


@pytest.mark.parametrize("caption", [True, False])
def test_ofa_s_file_holds_its_pictures(tmp_path: Path, pictures: Path, caption: bool) -> None:
    path = world.ofa_tsv(tmp_path / "snli_ve_dev.tsv", pictures, world.pairs(), caption=caption)
    data = read(path)
    check(data, "ofa", world.PREMISE if caption else None)
    assert data.pictures.open("1003") == (pictures / "1003.jpg").read_bytes()


def test_ids_are_the_published_ones_in_every_format(tmp_path: Path, pictures: Path) -> None:
    pairs = world.pairs()
    found = [
        [example.id for example in read(path, pictures).examples]
        for path in (
            world.snli_ve(tmp_path / "a.jsonl", pairs),
            world.e_snli_ve(tmp_path / "a.csv", pairs),
            world.ofa_tsv(tmp_path / "a.tsv", pictures, pairs),
        )
    ]
    assert found[0] == found[1] == found[2]
    assert found[0][5] == "1001.jpg#0r1"


def test_an_own_list_has_labels_and_categories(tmp_path: Path, pictures: Path) -> None:
    data = read(world.own_csv(tmp_path / "mine.csv", world.pairs()))
    check(data, "list", None)
    assert data.examples[0].category == world.pairs()[0].sentence.category


@pytest.mark.parametrize(
    ("form", "write"),
    [("sugarcrepe", world.sugar_crepe), ("valse", world.valse), ("foil", world.foil)],
)
def test_pairwise_data_has_a_right_and_a_wrong_caption(
    tmp_path: Path, pictures: Path, form: str, write: Callable[..., Path]
) -> None:
    data = read(write(tmp_path / "data.json", world.pairs()), pictures)
    assert (data.form, data.pairwise) == (form, True)
    found = [(example.row.image, example.row.text, example.foil) for example in data.examples]
    assert found == world.captions(world.pairs())
    assert all(example.row.error is None for example in data.examples)


def test_valse_s_pictures_may_be_in_a_folder_for_each_source(tmp_path: Path) -> None:
    world.draw(tmp_path / "shapes", world.pairs())
    data = read(world.valse(tmp_path / "data.json", world.pairs()), tmp_path)
    assert data.examples[0].row.image.startswith("shapes/")


def test_foils_that_the_annotators_did_not_confirm_are_left_out(tmp_path: Path, pictures: Path) -> None:
    path = world.valse(tmp_path / "data.json", world.pairs())
    document = json.loads(path.read_text())
    document["existence_0"]["mturk"]["caption"] = 1
    path.write_text(json.dumps(document))
    assert [example.skip for example in read(path, pictures).examples][:2] == ["not_validated", None]


def codes(data: Dataset) -> list[str | None]:
    """Return each example's error or reason to leave it out; None if it can be judged."""

    def code(example: Example) -> str | None:
        return example.skip or (example.row.error.code if example.row.error else None)

    return [code(example) for example in data.examples]


def test_damaged_json_lines_stay_in_the_data(tmp_path: Path) -> None:
    path = world.snli_ve(tmp_path / "data.jsonl", world.pairs()[:6])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["gold_label"] = "-"
    lines[2]["gold_label"] = "perhaps"
    del lines[3]["gold_label"]
    del lines[4]["Flickr30K_ID"]
    written = [json.dumps(line) for line in lines]
    written[5] = written[5][:40]
    path.write_text("\n".join(written))
    assert codes(read(path)) == [
        *(None, "no_gold_label", "unknown_label", "missing_field", "no_image", "malformed"),
    ]


def test_damaged_lines_of_ofa_s_file_stay_in_the_data(tmp_path: Path, pictures: Path) -> None:
    path = world.ofa_tsv(tmp_path / "data.tsv", pictures, world.pairs()[:4])
    lines = path.read_bytes().splitlines()
    lines[1] = lines[1].replace(b"\t", b" ")
    lines[2] = lines[2].rpartition(b"\t")[0] + b"\tperhaps"
    columns = lines[3].split(b"\t")
    lines[3] = b"\t".join([columns[0], b"1004", columns[2][:-3], *columns[3:]])
    path.write_bytes(b"\r\n".join(lines))
    data = read(path)
    assert codes(data) == [None, "missing_field", "unknown_label", None]
    with pytest.raises(InputError) as refused:
        data.pictures.open("1004")
    assert refused.value.code == "image_unreadable"


def test_damaged_entries_of_pairwise_data_stay_in_the_data(tmp_path: Path, pictures: Path) -> None:
    path = world.sugar_crepe(tmp_path / "data.json", world.pairs())
    document = json.loads(path.read_text())
    del document["0"]["negative_caption"]
    document["1"] = 7
    path.write_text(json.dumps(document))
    assert codes(read(path, pictures, "sugarcrepe"))[:2] == ["no_counterpart", "missing_field"]


def test_a_caption_without_its_counterpart_stays_in_foil_s_data(tmp_path: Path, pictures: Path) -> None:
    path = world.foil(tmp_path / "data.json", world.pairs())
    document = json.loads(path.read_text())
    del document["annotations"][0], document["annotations"][2], document["images"][2]
    path.write_text(json.dumps(document))
    assert codes(read(path, pictures))[:3] == ["no_counterpart", "no_counterpart", "missing_field"]


def test_damaged_rows_of_an_own_list_stay_in_the_data(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("image,text,label\na.jpg,a star,Yes\na.jpg,,Yes\na.jpg,a star,\na.jpg,a star,No,7\n")
    assert codes(read(path)) == [None, "no_text", "missing_field", "too_many_columns"]


def test_an_own_list_may_be_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"photo": "a.jpg", "sentence": "a star", "label": "Yes"}\n{"photo": "a.jpg"\n')
    data = read(path)
    assert (data.form, codes(data)) == ("list", [None, "malformed"])


def test_an_id_that_occurs_again_is_numbered(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("id,image,text,label\nx,a.jpg,a,Yes\nx,a.jpg,b,Yes\n,a.jpg,c,No\n")
    assert [example.id for example in read(path).examples] == ["x", "x~2", "row-4"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ('{"a": 1}', "unknown_format"),
        ('{"a": ', "unreadable_data"),
        ("[1, 2]", "unknown_format"),
        ("", "list_empty"),
        ("x,y\n1,2\n", "column_missing"),
    ],
)
def test_data_of_no_known_format_is_refused(tmp_path: Path, content: str, code: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(content)
    with pytest.raises(InputError) as refused:
        read(path)
    assert refused.value.code == code


def test_missing_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read(tmp_path / "data.csv")
    assert refused.value.code == "list_missing"
