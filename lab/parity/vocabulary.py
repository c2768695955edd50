"""Byte-level BPE vocabularies for random-weight folders: trained on a fixed text, padded to any size."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
BYTES = 256
#: Rows that ModelScope's model and preprocessor add after the vocabulary: `<code_i>` and `<bin_i>`.
ADDED_TOKENS = 8192 + 1000

# Prompts and typical captions, so that merges cross letters, digits and spaces.
_SENTENCES = """ does the image describe " a man in a red shirt is riding a horse "?
 can image and text1 " two dogs run on the beach " imply text2 " the animals are outside "?
 does the image describe " there is a blue circle next to the green square "?
 is it true of this picture that " three people are waiting for the train in the rain "?
 a photo of a woman and a child walking through the park on a sunny day in 2016.
 the old man with the white beard isn't sleeping, he's reading the paper at the table.
 kids are playing football in front of the school while their teacher watches them.
 a person wearing glasses and a hat plays the guitar on stage for a large crowd."""
_ANSWERS = """ no yes maybe. no, yes, maybe. yes no maybe: maybe yes no."""


def write_vocabulary(folder: Path, size: int, merges: int, *, answers_in_text: bool) -> None:
    """Write ``vocab.json`` of `size` entries and ``merges.txt`` of at most `merges` lines.

    As in BART's vocabulary, special tokens come first and ``<mask>`` last. Fewer merges make longer token
    sequences; with none, every answer starts with the token of the space. With `answers_in_text` and enough
    merges, " no", " yes" and " maybe" are one token each.
    """
    text = _SENTENCES.splitlines() * 2 + (_ANSWERS.splitlines() * 6 if answers_in_text else [])
    learned, pairs = _learn(text, merges)
    filler = [f"madeupword{i:05d}" for i in range(size - len(learned) - 1)]
    tokens = [*learned, *filler, MASK]
    if len(tokens) != size:
        raise ValueError(f"{len(learned)} learned tokens do not fit a vocabulary of {size}")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _learn(text: list[str], merges: int) -> tuple[list[str], list[list[str]]]:
    """Return tokens in id order (special, bytes, merged) and the merges in order."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL) + BYTES + merges,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(text, trainer)
    model = json.loads(bpe.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    # Older versions of the library write a merge as one string.
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return tokens, pairs
