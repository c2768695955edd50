"""Unsupported configuration values are refused by field."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lab.parity.folders import SPECS, FolderSpec
from ofa.config import RANGES, NetworkConfig, TaskConfig, image_grid
from ofa.errors import UnsupportedConfig
from ofa.model import EntailmentModel


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_ofasys", True),
        ("use_image_feature", False),
        ("use_gamma_feature", True),
        ("resnet_type", "resnet200"),
        ("activation_function", "swish"),
        ("d_model", "large"),
        ("d_model", 0),
        ("encoder_attention_heads", 7),
        ("token_bucket_size", 2),
        ("attn_scale_factor", -1.0),
        ("scale_embedding", "yes"),
    ],
)
def test_a_network_field_that_cannot_be_honoured_is_named(field: str, value: object) -> None:
    with pytest.raises(UnsupportedConfig) as caught:
        NetworkConfig.from_mapping({"d_model": 64, "encoder_attention_heads": 4, field: value})
    assert field in caught.value.field
    assert caught.value.value == value


def test_every_number_has_a_range() -> None:
    numbers = {
        field.name for field in dataclasses.fields(NetworkConfig) if type(field.default) in (int, float)
    }
    assert numbers == set(RANGES)


@pytest.mark.parametrize("name", RANGES)
def test_a_number_out_of_its_range_is_named_and_one_in_it_is_taken(name: str) -> None:
    low, high = RANGES[name]
    alone = {"d_model": int(RANGES["d_model"][1]), "encoder_attention_heads": 1, "decoder_attention_heads": 1}
    for value in (low, high):
        assert getattr(NetworkConfig.from_mapping({**alone, name: value}), name) == value
    for value in (low / 2 if name == "attn_scale_factor" else low - 1, high + 1, float("nan"), float("inf")):
        with pytest.raises(UnsupportedConfig) as caught:
            NetworkConfig.from_mapping({**alone, name: value})
        assert name in caught.value.field


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_published_sizes_are_within_the_ranges(spec: FolderSpec) -> None:
    NetworkConfig.from_mapping(spec.config())


def test_fields_of_other_purposes_are_left_alone() -> None:
    assert NetworkConfig.from_mapping({"dropout": 0.3, "torch_dtype": "float16"}) == NetworkConfig()


def test_whole_numbers_are_taken_where_a_fraction_is_meant() -> None:
    assert NetworkConfig.from_mapping({"attn_scale_factor": 2}).attn_scale_factor == 2.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "clip"),
        ("gen_type", "generation"),
        ("prompt_type", "src"),
        ("language", "zh"),
        ("multimodal_type", "text2sql"),
        ("patch_image_size", 0),
        ("max_src_length", "80"),
        ("answer2label", "../ans2label.json"),
        ("answer2label", "missing.json"),
        ("answer2label", None),
        ("prompt", "no slot"),
        ("prompt", "{} {} {}"),
        ("prompt", "{0.__class__}"),
        ("prompt", "{:>1000000000}"),
    ],
)
def test_a_task_field_that_cannot_be_honoured_is_named(folder_copy: Path, field: str, value: object) -> None:
    edit(folder_copy / "configuration.json", lambda content: content["model"].update({field: value}))
    with pytest.raises(UnsupportedConfig) as caught:
        TaskConfig.from_folder(folder_copy)
    assert field in caught.value.field or value == caught.value.field


def test_another_task_is_refused(folder_copy: Path) -> None:
    edit(folder_copy / "configuration.json", lambda content: content.update(task="image-captioning"))
    with pytest.raises(UnsupportedConfig, match="task"):
        TaskConfig.from_folder(folder_copy)


@pytest.mark.parametrize(
    "answers", [["yes", "no"], ["yes", "no", "cat"], ["yes", "no", "maybe", "entailment"]]
)
def test_answers_must_mean_yes_no_and_maybe(folder_copy: Path, answers: list[str]) -> None:
    (folder_copy / "ans2label.json").write_text(json.dumps(dict.fromkeys(answers, 0)))
    with pytest.raises(UnsupportedConfig, match="answer2label"):
        TaskConfig.from_folder(folder_copy)


def test_the_names_of_the_data_set_are_answers_too(folder_copy: Path) -> None:
    (folder_copy / "ans2label.json").write_text('{"neutral": 2, "contradiction": 0, "entailment": 1}')
    assert TaskConfig.from_folder(folder_copy).labels == ("Maybe", "No", "Yes")


@pytest.mark.parametrize(
    ("file", "path", "value", "field"),
    [
        ("config.json", ("vocab_size",), 59457, "vocab_size"),
        ("config.json", ("pad_token_id",), 3, "pad_token_id"),
        ("configuration.json", ("model", "patch_image_size"), 1024, "patch_image_size"),
        ("configuration.json", ("model", "max_src_length"), 1022, "max_src_length"),
    ],
)
def test_files_that_contradict_each_other_are_refused(
    folder_copy: Path, file: str, path: tuple[str, ...], value: int, field: str
) -> None:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    edit(folder_copy / file, change)
    with pytest.raises(UnsupportedConfig) as caught:
        EntailmentModel.load(folder_copy)
    assert field in caught.value.field


@pytest.mark.parametrize("content", ["", "[]", "{", "\udcff"])
def test_a_file_without_a_json_object_is_named(folder_copy: Path, content: str) -> None:
    (folder_copy / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UnsupportedConfig, match=r"config\.json"):
        NetworkConfig.from_folder(folder_copy)


@pytest.mark.parametrize(("size", "grid"), [(480, 30), (128, 8), (100, 7), (1, 1), (17, 2), (16, 1)])
def test_the_grid_rounds_up_at_each_halving(size: int, grid: int) -> None:
    assert image_grid(size) == grid
