"""Write the model folder in ModelScope's format: tokenizer, both configurations, half-precision weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

from lab.demo_training import sentences
from lab.demo_training.phrases import NUMBERS
from lab.demo_training.unseeable import OUT_OF_WORLD, UNSEEABLE
from lab.demo_training.world import COLOURS, SHAPES
from ofa.network import OFA
from ofa.positions import image_bucket_count
from ofa.tokenizer import BIN_TOKENS, CODE_TOKENS

#: The folder's files except the weights.
TEXT_FILES = ("configuration.json", "config.json", "vocab.json", "merges.txt", "ans2label.json")
ANSWERS = ("no", "yes", "maybe")
#: One-word answers to the open questions, which only training uses.
WORDS = (
    *(*SHAPES, *COLOURS, "small", "large", *NUMBERS),
    *("left", "right", "top", "bottom", "above", "below", "centre", "corner"),
)
VOCABULARY = 1300
MAX_SOURCE = 60
#: Short, since every token costs training time; one slot, since this model takes no premise.
PROMPT = " {} ?"

NETWORK = {
    "d_model": 192,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 768,
    "decoder_ffn_dim": 768,
    "max_position_embeddings": MAX_SOURCE + 4,
    "resnet_type": "resnet18",
    "token_bucket_size": 32,
    "image_bucket_size": 8,
    "dropout": 0.0,
    "entangle_position_embedding": True,
}
TASK = {
    "framework": "pytorch",
    "task": "visual-entailment",
    "model": {
        "type": "ofa",
        "gen_type": "traverse",
        "prompt_type": "prev_output",
        "prompt": PROMPT,
        "max_src_length": MAX_SOURCE,
        "patch_image_size": 128,
        "answer2label": "ans2label.json",
        "language": "en",
    },
    "pipeline": {"type": "visual-entailment"},
    "preprocessor": {"type": "ofa-tasks-preprocessor"},
}


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE (`vocab.json`, `merges.txt`) in which every word of the grammar is one token.

    Invented and unknown nouns are left out on purpose: they are split into pieces, like all unknown words.
    """
    texts = (*UNSEEABLE, *OUT_OF_WORLD, " ".join((*ANSWERS, *WORDS)))
    words = (
        {word for text in texts for word in text.split() if word.isalnum()} | sentences.KNOWN_WORDS | {"isn"}
    )
    corpus = [f" {word} ? {word} . 's 't" for word in sorted(words) for _ in range(5)]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        corpus,
        vocab_size=VOCABULARY - 1,
        min_frequency=2,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        show_progress=False,
    )
    trained.save_model(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    vocabulary["<mask>"] = len(vocabulary)
    ordered = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(ordered, ensure_ascii=False) + "\n", encoding="utf-8")


def write_configuration(folder: Path) -> None:
    """Write `config.json`, `configuration.json` and `ans2label.json`; the vocabulary must exist."""
    base = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    network = {"model_type": "ofa", "vocab_size": base + CODE_TOKENS + BIN_TOKENS, **NETWORK}
    labels = {answer: index for index, answer in enumerate(ANSWERS)}
    for name, value in (("config.json", network), ("configuration.json", TASK), ("ans2label.json", labels)):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def stored_weights(network: OFA, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Return the state dict as stored: fp16, the shared embedding once, no buckets; the weights of OFA's
    picture generation, which ModelScope's class requires, at their initial values."""
    state = network.state_dict()
    config = network.config
    for name in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        del state[name]
    width, heads = config.d_model, config.decoder_attention_heads
    state["decoder.embed_image_positions.weight"] = torch.zeros(config.image_bucket_size**2 + 1, width)
    for name in ("image_pos_ln", "code_layernorm_embedding"):
        state[f"decoder.{name}.weight"], state[f"decoder.{name}.bias"] = torch.ones(width), torch.zeros(width)
    for layer in range(config.decoder_layers):
        table = torch.zeros(image_bucket_count(config.image_bucket_size), heads)
        state[f"decoder.image_rel_pos_table_list.{layer}.weight"] = table
    return {
        key: (value.to(dtype) if value.is_floating_point() else value).clone() for key, value in state.items()
    }


def write_weights(network: OFA, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write `pytorch_model.bin` atomically."""
    partial = folder / "pytorch_model.partial"
    torch.save(stored_weights(network, dtype), partial)
    partial.rename(folder / "pytorch_model.bin")
