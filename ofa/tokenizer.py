"""Tokenize text as ModelScope's ``OFATokenizer`` and its preprocessor do.

Byte-level BPE without a leading space (GPT-2, BART). After the base vocabulary ModelScope adds 8192
``<code_i>`` and 1000 ``<bin_i>`` tokens. They have embedding rows, but ``</s>``, ``<mask>`` or ``<code_5>``
in a user's sentence is tokenized as plain text.
"""

from __future__ import annotations

import re
from pathlib import Path

from tokenizers import Tokenizer as BPETokenizer
from tokenizers import models, pre_tokenizers

from ofa.config import TaskConfig, read_json, read_text
from ofa.errors import TextError, UnsupportedConfig

CODE_TOKENS = 8192
BIN_TOKENS = 1000
#: Size limit of vocab.json and merges.txt, in bytes; BART's have 1.0 and 0.5 million.
MAX_VOCABULARY = 4 << 20
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
HYPOTHESIS_PROMPT = ' does the image describe " {} "?'
PREMISE_PROMPT = ' can image and text1 " {} " imply text2 " {} "?'


class Tokenizer:
    """Byte-level BPE over a model folder's ``vocab.json`` and ``merges.txt``.

    Attributes:
        base_size: entries of ``vocab.json``; the code and bin tokens follow.
        bos, pad, eos: ids of ``<s>``, ``<pad>``, ``</s>``.
    """

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
        missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
        if missing:
            raise UnsupportedConfig("vocab.json", "incomplete", "it needs the tokens " + " ".join(missing))
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise UnsupportedConfig("vocab.json", "gaps", "ids must run from 0 without gaps")
        if any(_LONE_SURROGATE.search(token) for token in vocabulary):
            raise UnsupportedConfig("vocab.json", "broken", "a token contains a lone surrogate")
        try:
            bpe = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>")
        except Exception as error:  # the library raises bare Exception for merges outside the vocabulary
            raise UnsupportedConfig(
                "merges.txt", "inconsistent", "its merges must be in vocab.json"
            ) from error
        self._bpe = BPETokenizer(bpe)
        # No special tokens are registered: the library would recognise them in users' texts.
        self._bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        self.base_size = len(vocabulary)
        self.added = CODE_TOKENS + BIN_TOKENS
        self.bos, self.pad, self.eos = (vocabulary[token] for token in ("<s>", "<pad>", "</s>"))

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Read ``vocab.json`` and ``merges.txt``. Raises :class:`UnsupportedConfig`."""
        vocabulary = read_json(folder / "vocab.json", MAX_VOCABULARY)
        lines = read_text(folder / "merges.txt", MAX_VOCABULARY).split("\n")
        if not all(type(token) is int for token in vocabulary.values()):
            raise UnsupportedConfig("vocab.json", "other values", "an object from tokens to ids")
        # Like the original, skip the first line (a version) and what follows the last newline.
        pairs = [tuple(line.split()) for line in lines[1:-1]]
        if any(len(pair) != 2 for pair in pairs):
            raise UnsupportedConfig("merges.txt", "malformed", "two tokens on each line after the first")
        return cls(vocabulary, [(pair[0], pair[1]) for pair in pairs])

    def encode(self, text: str) -> list[int]:
        """Token ids without ``<s>`` and ``</s>``. Raises :class:`TextError` on lone surrogates."""
        if _LONE_SURROGATE.search(text):
            raise TextError("the text contains a lone surrogate")
        return list(self._bpe.encode(text, add_special_tokens=False).ids)


def build_source(tokenizer: Tokenizer, task: TaskConfig, hypothesis: str, premise: str | None) -> list[int]:
    """The encoder's token ids ``<s> prompt </s>`` for a hypothesis and an optional premise.

    Raises:
        TextError: the configured prompt does not support a premise, or requires one.
    """
    words = clean_caption(hypothesis, task.max_src_length)
    slots = task.prompt_slots
    if premise is None:
        if slots == 2:
            raise TextError("this model requires a premise: add one", "premise_needed")
        text = (task.prompt or HYPOTHESIS_PROMPT).format(words)
    else:
        if slots == 1:  # ModelScope would insert the premise and drop the hypothesis
            raise TextError("this model does not take a premise: remove it", "premise_refused")
        text = (task.prompt or PREMISE_PROMPT).format(clean_caption(premise, task.max_src_length), words)
    return [tokenizer.bos, *tokenizer.encode(text)[: task.max_src_length], tokenizer.eos]


def clean_caption(text: str, max_words: int) -> str:
    """Lower-case, trim and truncate a text by words, exactly as ModelScope's ``pre_caption``."""
    text = text.lower().lstrip(",.!?*#:;~").replace("-", " ").replace("/", " ").replace("<person>", "person")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    words = text.split(" ")
    return " ".join(words[:max_words]) if len(words) > max_words else text
