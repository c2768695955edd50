"""Token ids equal ModelScope's, except that text cannot produce control tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ofa.config import TaskConfig
from ofa.errors import TextError, UnsupportedConfig
from ofa.tokenizer import Tokenizer, build_source, clean_caption


@pytest.fixture(scope="module")
def tokenizer(random_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(random_folder)


@pytest.fixture(scope="module")
def task(random_folder: Path) -> TaskConfig:
    return TaskConfig.from_folder(random_folder)


@pytest.mark.parametrize("text", ["</s>", "<mask>", "<s>", "<pad>", "<code_5>", "<bin_999>", "a </s> b"])
def test_a_text_that_spells_a_token_stays_text(tokenizer: Tokenizer, task: TaskConfig, text: str) -> None:
    source = build_source(tokenizer, task, text, None)
    assert not {tokenizer.bos, tokenizer.eos, tokenizer.pad} & set(source[1:-1])
    assert max(source) < tokenizer.base_size


def test_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("\x00\x7fé圖🙂") != []


def test_a_lone_surrogate_is_a_text_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(TextError, match="surrogate"):
        tokenizer.encode("a \ud800 b")


@pytest.mark.parametrize(
    ("text", "words", "cleaned"),
    [
        ("  .A Red-Circle/Square\n", 80, ".a red circle square"),  # leading blanks protect the dot, as there
        ("!?*A  \t circle", 80, "a circle"),
        ("<person> sits", 80, "person sits"),
        ("one two three four", 2, "one two"),
        ("", 80, ""),
    ],
)
def test_captions_are_cleaned_as_the_original_does(text: str, words: int, cleaned: str) -> None:
    assert clean_caption(text, words) == cleaned


def test_a_prompt_is_cut_to_its_length_but_keeps_its_end(tokenizer: Tokenizer, task: TaskConfig) -> None:
    source = build_source(tokenizer, replace(task, max_src_length=10), "word " * 50, None)
    assert len(source) == 12
    assert (source[0], source[-1]) == (tokenizer.bos, tokenizer.eos)


def test_a_prompt_with_one_slot_refuses_a_premise(tokenizer: Tokenizer, task: TaskConfig) -> None:
    one_slot = replace(task, prompt=" is {} true?")
    assert build_source(tokenizer, one_slot, "this", None) == [
        tokenizer.bos,
        *tokenizer.encode(" is this true?"),
        tokenizer.eos,
    ]
    with pytest.raises(TextError, match="premise"):
        build_source(tokenizer, one_slot, "this", "that")


def test_a_prompt_with_two_slots_needs_a_premise(tokenizer: Tokenizer, task: TaskConfig) -> None:
    two_slots = replace(task, prompt=" given {} is {} true?")
    wanted = [tokenizer.bos, *tokenizer.encode(" given that is this true?"), tokenizer.eos]
    assert build_source(tokenizer, two_slots, "this", "that") == wanted
    with pytest.raises(TextError, match="premise"):
        build_source(tokenizer, two_slots, "this", None)


def test_braces_in_a_text_are_not_slots(tokenizer: Tokenizer, task: TaskConfig) -> None:
    source = build_source(tokenizer, task, "{0.__class__} {}", None)
    assert source[1:-1] == tokenizer.encode(' does the image describe " {0.__class__} {} "?')


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("vocab.json", "[]"),
        ("vocab.json", '{"a": 0}'),
        ("vocab.json", "{"),
        ("merges.txt", "#version\na b c\n"),
        ("merges.txt", "#version\nzzz qqq\n"),
    ],
)
def test_a_damaged_vocabulary_is_named(folder_copy: Path, file: str, content: str) -> None:
    (folder_copy / file).write_text(content)
    with pytest.raises(UnsupportedConfig, match=file):
        Tokenizer.from_folder(folder_copy)


def test_ids_with_a_gap_are_refused(folder_copy: Path) -> None:
    vocabulary = json.loads((folder_copy / "vocab.json").read_text())
    last = max(vocabulary, key=lambda token: vocabulary[token])
    vocabulary[last] += 5
    (folder_copy / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(UnsupportedConfig, match=r"vocab\.json"):
        Tokenizer.from_folder(folder_copy)
