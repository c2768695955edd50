"""Random-weight model folders in ModelScope's format, made without ModelScope, the same on every machine.

The small ones cover every flag in which OFA checkpoints vary; "distilled" and "large" have the shapes of the
two published models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lab.parity.vocabulary import ADDED_TOKENS, write_vocabulary
from lab.parity.weights import random_tensor
from ofa.config import NetworkConfig
from ofa.network import OFA
from ofa.positions import image_buckets, token_buckets

ANSWERS = ("no", "yes", "maybe")
SMALL_VOCABULARY = 700
BART_VOCABULARY = 50265
#: Positions for which ModelScope stores token buckets.
STORED_POSITIONS = 1024


@dataclass(frozen=True, slots=True)
class FolderSpec:
    """How one folder differs from ModelScope's defaults.

    Attributes:
        seed: seed of the weights.
        network: fields of config.json.
        task: fields of configuration.json's "model".
        answers: the answer file, in its order.
        vocabulary: entries of vocab.json.
        merges: at most this many lines of merges.txt.
        answers_in_text: whether each answer is one token of the vocabulary.
        safetensors: write model.safetensors instead of pytorch_model.bin.
        stored_buckets: whether the weights file holds the position buckets, as published ones do.
    """

    seed: int
    network: Mapping[str, Any]
    task: Mapping[str, Any] = field(default_factory=dict)
    answers: tuple[str, ...] = ANSWERS
    vocabulary: int = SMALL_VOCABULARY
    merges: int = 420
    answers_in_text: bool = True
    safetensors: bool = False
    stored_buckets: bool = False

    @property
    def prompt_slots(self) -> int | None:
        """Slots of the configured prompt; None for the built-in prompts."""
        prompt = self.task.get("prompt")
        return None if prompt is None else str(prompt).count("{}")

    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        named = {
            "model_type": "ofa",
            "architectures": ["OFAModel"],
            "vocab_size": self.vocabulary + ADDED_TOKENS,
        }
        return {**named, **self.network}

    def configuration(self) -> dict[str, Any]:
        """The content of configuration.json."""
        model = {
            "type": "ofa",
            "gen_type": "traverse",
            "prompt_type": "prev_output",
            "max_src_length": 80,
            "answer2label": "ans2label.json",
            "language": "en",
        }
        return {
            "framework": "pytorch",
            "task": "visual-entailment",
            "model": {**model, **self.task},
            "pipeline": {"type": "visual-entailment"},
            "preprocessor": {"type": "ofa-tasks-preprocessor"},
        }


def _shape(
    width: int, layers: tuple[int, int], heads: tuple[int, int], resnet: str, **more: Any
) -> dict[str, Any]:
    return {
        "d_model": width,
        "encoder_layers": layers[0],
        "decoder_layers": layers[1],
        "encoder_attention_heads": heads[0],
        "decoder_attention_heads": heads[1],
        "encoder_ffn_dim": more.pop("encoder_ffn_dim", 2 * width),
        "decoder_ffn_dim": more.pop("decoder_ffn_dim", 3 * width),
        "resnet_type": resnet,
        **more,
    }


SMALL: Mapping[str, FolderSpec] = {
    "defaults-resnet18": FolderSpec(
        101, _shape(64, (2, 2), (4, 4), "resnet18"), {"patch_image_size": 64}, stored_buckets=True
    ),
    "scaled-shared-resnet34": FolderSpec(
        102,
        _shape(48, (2, 3), (4, 2), "resnet34", scale_embedding=True, share_attn_bias=True),
        {"patch_image_size": 96, "imagenet_default_mean_and_std": True},
        answers=("yes", "maybe", "no"),
    ),
    "entangled-untyped-resnet50": FolderSpec(
        306,
        _shape(32, (3, 2), (2, 4), "resnet50", entangle_position_embedding=True, add_type_embedding=False,
               token_bucket_size=64, image_bucket_size=16),
        {"patch_image_size": 128, "prompt_type": "none", "max_src_length": 128},
        merges=120,
    ),
    "short-prompt-resnet101": FolderSpec(
        104,
        _shape(40, (2, 2), (4, 4), "resnet101", token_bucket_size=8, image_bucket_size=20),
        {"patch_image_size": 64, "max_src_length": 12, "prompt": ' is "{}" true?'},
        answers=("maybe", "no", "yes"),
    ),
    "two-slots-resnet152": FolderSpec(
        105,
        _shape(32, (2, 2), (2, 2), "resnet152", max_position_embeddings=512),
        {"patch_image_size": 64, "max_src_length": 200, "prompt": ' given " {} " and this, is " {} " so?'},
        safetensors=True,
    ),
    "bare-post-norm": FolderSpec(
        106,
        _shape(64, (2, 2), (4, 4), "resnet18", normformer=False, layernorm_embedding=False,
               patch_layernorm_embedding=False, code_layernorm_embedding=False,
               encoder_normalize_before=False, decoder_normalize_before=False,
               share_decoder_input_output_embed=False, attn_scale_factor=1.0, activation_function="relu"),
        {"patch_image_size": 100, "max_src_length": 60},
        answers_in_text=False,
    ),
    "answers-share-a-token": FolderSpec(
        107,
        _shape(64, (2, 2), (4, 4), "resnet18", entangle_position_embedding=True, disable_entangle=True,
               activation_function="gelu_new"),
        {"patch_image_size": 80, "max_src_length": 400, "batch_size": 2},
        merges=0,
    ),
    "full-size-picture": FolderSpec(
        108,
        _shape(32, (2, 2), (4, 4), "resnet18", scale_embedding=True, encoder_ffn_dim=40),
        {"patch_image_size": 480, "prompt_type": "none"},
        answers_in_text=False,
        merges=200,
    ),
}  # fmt: skip

PUBLISHED: Mapping[str, FolderSpec] = {
    "distilled": FolderSpec(
        201,
        _shape(256, (4, 4), (4, 4), "resnet50", encoder_ffn_dim=1024, decoder_ffn_dim=1024),
        {"patch_image_size": 480},
        vocabulary=BART_VOCABULARY,
        stored_buckets=True,
    ),
    "large": FolderSpec(
        202,
        _shape(1024, (12, 12), (16, 16), "resnet152", encoder_ffn_dim=4096, decoder_ffn_dim=4096),
        {"patch_image_size": 480},
        vocabulary=BART_VOCABULARY,
    ),
}

SPECS: Mapping[str, FolderSpec] = {**SMALL, **PUBLISHED}


def write_folder(folder: Path, spec: FolderSpec) -> Path:
    """Write the model folder of `spec` into `folder` and return `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", spec.config())
    _write_json(folder / "configuration.json", spec.configuration())
    _write_json(folder / "ans2label.json", {answer: index for index, answer in enumerate(spec.answers)})
    write_vocabulary(folder, spec.vocabulary, spec.merges, answers_in_text=spec.answers_in_text)
    weights = random_weights(spec)
    if spec.safetensors:
        # safetensors has no shared storage.
        separate = {key: tensor.clone() for key, tensor in weights.items()}
        save_file(separate, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    return folder


def random_weights(spec: FolderSpec) -> dict[str, torch.Tensor]:
    """Return the state dict with ModelScope's keys; tied weights share their storage."""
    with torch.device("meta"):
        network = OFA(NetworkConfig.from_mapping(spec.config()))
    weights: dict[str, torch.Tensor] = {}
    for key, like in network.state_dict().items():
        source = _tied_to(key, spec)
        if source in weights:
            weights[key] = weights[source]
        else:
            weight = torch.from_numpy(random_tensor(spec.seed, source, tuple(like.shape)))
            weights[source] = weights[key] = weight
    weights.update(_drawing_weights(spec, weights))
    return {**weights, **(_stored_buckets(spec) if spec.stored_buckets else {})}


def _tied_to(key: str, spec: FolderSpec) -> str:
    """Return the key this weight is tied to: encoder, decoder and (if shared) output use one embedding."""
    shared_output = spec.network.get("share_decoder_input_output_embed", True)
    if key == "decoder.embed_tokens.weight" or (key == "decoder.output_projection.weight" and shared_output):
        return "encoder.embed_tokens.weight"
    return key


def _drawing_weights(spec: FolderSpec, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the decoder's weights for picture generation, unused here but part of the checkpoint."""
    twins = {
        "decoder.embed_image_positions.weight": "encoder.embed_image_positions.weight",
        "decoder.image_pos_ln.weight": "decoder.pos_ln.weight",
        "decoder.image_pos_ln.bias": "decoder.pos_ln.bias",
    }
    if spec.network.get("code_layernorm_embedding", True):
        twins["decoder.code_layernorm_embedding.weight"] = "decoder.pos_ln.weight"
        twins["decoder.code_layernorm_embedding.bias"] = "decoder.pos_ln.bias"
    shapes = {key: tuple(weights[twin].shape) for key, twin in twins.items()}
    rows = weights["encoder.image_rel_pos_table_list.0.weight"].shape[0]
    tables = sum(key.startswith("decoder.token_rel_pos_table_list") for key in weights)
    for index in range(tables):
        key = f"decoder.image_rel_pos_table_list.{index}.weight"
        shapes[key] = (rows, spec.network["decoder_attention_heads"])
    return {key: torch.from_numpy(random_tensor(spec.seed, key, shape)) for key, shape in shapes.items()}


def _stored_buckets(spec: FolderSpec) -> dict[str, torch.Tensor]:
    """Return the buffers that ModelScope saves with the weights."""
    size = spec.network.get("image_bucket_size", 42)
    tokens = token_buckets(spec.network.get("token_bucket_size", 256), STORED_POSITIONS)
    table = torch.full((size * size + 1,) * 2, (2 * size - 1) ** 2)
    table[:, 0] += 1
    table[0, 0] += 1
    table[1:, 1:] = image_buckets(size, size)
    window = 128 // 8
    grid = torch.arange(window)[:, None] * size + torch.arange(window)[None, :] + 1
    positions = torch.cat([torch.tensor([0]), grid.flatten(), torch.full((768,), 1024)])
    return {
        "encoder.token_rp_bucket": tokens,
        "decoder.token_rp_bucket": tokens.clone(),
        "encoder.image_rp_bucket": table,
        "decoder.image_rp_bucket": table.clone(),
        "decoder.image_position_idx": positions,
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
