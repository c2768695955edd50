"""The two configuration files of a model folder, validated and frozen.

``config.json`` describes the network (ModelScope's ``OFAConfig``), ``configuration.json`` the task.
Missing fields take ModelScope's defaults (``modelscope/models/multi_modal/ofa/configuration_ofa.py`` and
``modelscope/preprocessors/ofa/base.py``, 1.40.2). Values that are not implemented raise
:class:`~ofa.errors.UnsupportedConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from string import Formatter
from typing import Any

from ofa import documents
from ofa.errors import UnsupportedConfig

#: Blocks in the three stages of each ResNet; ModelScope uses bottlenecks for all of them.
RESNET_BLOCKS: Mapping[str, tuple[int, int, int]] = {
    "resnet18": (2, 2, 2),
    "resnet34": (3, 4, 6),
    "resnet50": (3, 4, 6),
    "resnet101": (3, 4, 23),
    "resnet152": (3, 8, 36),
}
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")
#: ModelScope builds its bucket table for this many positions, regardless of the configuration.
MAX_BUCKET_POSITIONS = 1024

#: The longest prompt and the longest answer, in characters.
MAX_PROMPT, MAX_ANSWER = 1000, 100
#: The allowed range of every number in config.json. The largest published OFA ("huge") has d_model 1280,
#: 24 + 12 layers and 16 heads; all ranges leave similar room.
RANGES: Mapping[str, tuple[float, float]] = {
    "vocab_size": (1, 1 << 20),
    "d_model": (1, 1 << 13),
    "encoder_layers": (1, 96),
    "decoder_layers": (1, 96),
    "encoder_attention_heads": (1, 256),
    "decoder_attention_heads": (1, 256),
    "encoder_ffn_dim": (1, 1 << 15),
    "decoder_ffn_dim": (1, 1 << 15),
    "max_position_embeddings": (1, 1 << 14),
    "attn_scale_factor": (0.001, 1000),
    "token_bucket_size": (4, MAX_BUCKET_POSITIONS),
    "image_bucket_size": (1, 64),
    "orig_patch_image_size": (16, 1024),
    "pad_token_id": (0, 1 << 20),
}

#: Fields with one supported value, and the reason to refuse others.
_ONLY: Mapping[str, tuple[object, str]] = {
    "use_ofasys": (False, "the ViT models of OFA-Sys have another structure"),
    "use_image_feature": (True, "an image is required"),
    "use_gamma_feature": (False, "layer-scale weights are not implemented"),
}

_TYPE_NAMES: Mapping[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
}

#: The supported answers of visual-entailment models, and their labels.
ANSWER_LABELS: Mapping[str, str] = {
    "yes": "Yes",
    "no": "No",
    "maybe": "Maybe",
    "entailment": "Yes",
    "contradiction": "No",
    "neutral": "Maybe",
}


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The shape of the network. Field names are ``config.json``'s, defaults are ``OFAConfig``'s."""

    vocab_size: int = 59457
    d_model: int = 512
    encoder_layers: int = 4
    decoder_layers: int = 4
    encoder_attention_heads: int = 8
    decoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_ffn_dim: int = 2048
    max_position_embeddings: int = 1024
    activation_function: str = "gelu"
    scale_embedding: bool = False
    encoder_normalize_before: bool = True
    decoder_normalize_before: bool = True
    normformer: bool = True
    layernorm_embedding: bool = True
    patch_layernorm_embedding: bool = True
    add_type_embedding: bool = True
    entangle_position_embedding: bool = False
    disable_entangle: bool = False
    share_attn_bias: bool = False
    share_decoder_input_output_embed: bool = True
    attn_scale_factor: float = 2.0
    resnet_type: str = "resnet101"
    token_bucket_size: int = 256
    image_bucket_size: int = 42
    interpolate_position: bool = False
    orig_patch_image_size: int = 224
    pad_token_id: int = 1

    @classmethod
    def from_folder(cls, folder: Path) -> NetworkConfig:
        """Read ``folder/config.json``. Raises :class:`UnsupportedConfig`."""
        return cls.from_mapping(read_json(folder / "config.json"))

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> NetworkConfig:
        """Read the known fields of ``raw``; like ModelScope, ignore all others."""
        for name, (supported, why) in _ONLY.items():
            if raw.get(name, supported) != supported:
                raise UnsupportedConfig(f"config.json: {name}", raw[name], why)
        known: dict[str, Any] = {
            field.name: _typed(field.name, raw[field.name], type(field.default))
            for field in fields(cls)
            if field.name in raw
        }
        config = cls(**known)
        config._check()
        return config

    def _check(self) -> None:
        if self.resnet_type not in RESNET_BLOCKS:
            raise UnsupportedConfig(
                "config.json: resnet_type", self.resnet_type, "one of " + ", ".join(RESNET_BLOCKS)
            )
        if self.activation_function not in ACTIVATIONS:
            raise UnsupportedConfig(
                "config.json: activation_function",
                self.activation_function,
                "one of " + ", ".join(ACTIVATIONS),
            )
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise UnsupportedConfig(f"config.json: {name}", value, f"a number from {low} to {high}")
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            heads = getattr(self, name)
            if self.d_model % heads:
                raise UnsupportedConfig(f"config.json: {name}", heads, f"a divisor of d_model {self.d_model}")


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """How pictures and sentences become inputs, and which answers are allowed.

    Attributes:
        patch_image_size: side in pixels of the square that pictures are resized to.
        max_src_length: limit of the prompt in tokens, and before that of each text in words.
        prompt_type: ``prev_output`` (the decoder reads the encoder's source again) or ``none``.
        mean, std: normalisation of the three colour channels.
        prompt: overrides both of the built-in prompts, or None.
        answers: the allowed answers in the order of their scores.
        labels: for each answer, ``Yes``, ``No`` or ``Maybe``.
    """

    answers: tuple[str, ...]
    labels: tuple[str, ...]
    patch_image_size: int = 480
    max_src_length: int = 256
    prompt_type: str = "none"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    prompt: str | None = None
    language: str = "en"

    @classmethod
    def from_folder(cls, folder: Path) -> TaskConfig:
        """Read ``configuration.json`` and the answer file it names. Raises :class:`UnsupportedConfig`."""
        raw = read_json(folder / "configuration.json")
        model = raw.get("model")
        if not isinstance(model, Mapping):
            raise UnsupportedConfig("configuration.json: model", model, "an object with the model's settings")
        _require("task", raw.get("task"), ("visual-entailment",))
        _require("model.type", model.get("type"), ("ofa",))
        _require("model.gen_type", model.get("gen_type", "generation"), ("traverse",))
        language = _require("model.language", model.get("language", "en"), ("en",))
        _require("model.multimodal_type", model.get("multimodal_type", "default"), ("default",))
        prompt_type = _require("model.prompt_type", model.get("prompt_type", "none"), ("none", "prev_output"))
        answers = _read_answers(folder, model.get("answer2label"))
        imagenet = bool(model.get("imagenet_default_mean_and_std", False))
        return cls(
            answers=answers,
            labels=_labels_of(answers),
            patch_image_size=_size("patch_image_size", model.get("patch_image_size", 480)),
            max_src_length=_size("max_src_length", model.get("max_src_length", 256)),
            prompt_type=prompt_type,
            mean=(0.485, 0.456, 0.406) if imagenet else (0.5, 0.5, 0.5),
            std=(0.229, 0.224, 0.225) if imagenet else (0.5, 0.5, 0.5),
            prompt=_checked_prompt(model.get("prompt")),
            language=language,
        )

    @property
    def prompt_slots(self) -> int | None:
        """The number of texts the configured prompt takes; None with the built-in prompts."""
        return None if self.prompt is None else _slots(self.prompt)


def read_text(path: Path, limit: int = documents.MAX_FILE) -> str:
    """Read a text file of the folder. Raises :class:`UnsupportedConfig` naming the file."""
    try:
        return documents.read_text(path, limit)
    except FileNotFoundError as error:
        raise UnsupportedConfig(path.name, "missing", f"the model folder needs a {path.name}") from error
    except ValueError as error:
        raise UnsupportedConfig(path.name, "unreadable", f"it is {error}") from error


def read_json(path: Path, limit: int = documents.MAX_FILE) -> dict[str, Any]:
    """Read a JSON object from a file of the folder. Raises :class:`UnsupportedConfig`."""
    text = read_text(path, limit)
    try:
        value = documents.parse(text)
    except ValueError as error:
        raise UnsupportedConfig(path.name, "unreadable", f"it is {error}") from error
    if not isinstance(value, dict):
        raise UnsupportedConfig(path.name, type(value).__name__, "a JSON object")
    return value


def check_together(
    network: NetworkConfig, task: TaskConfig, base_vocabulary: int, added: int, longest_answer: int
) -> None:
    """Refuse configuration files that contradict each other.

    Args:
        base_vocabulary: entries of vocab.json.
        added: code and bin tokens after them.
        longest_answer: tokens of the longest answer.
    """
    if network.vocab_size != base_vocabulary + added:
        raise UnsupportedConfig(
            "config.json: vocab_size",
            network.vocab_size,
            f"vocab.json's {base_vocabulary} entries and {added} code and bin tokens make "
            f"{base_vocabulary + added}",
        )
    grid = image_grid(task.patch_image_size)
    if grid > network.image_bucket_size:
        raise UnsupportedConfig(
            "configuration.json: model.patch_image_size",
            task.patch_image_size,
            f"its {grid}×{grid} image tokens exceed image_bucket_size {network.image_bucket_size}",
        )
    longest = task.max_src_length + 2 + longest_answer
    room = min(network.max_position_embeddings + 2, MAX_BUCKET_POSITIONS)
    if longest > room:
        raise UnsupportedConfig(
            "configuration.json: model.max_src_length",
            task.max_src_length,
            f"at most {room - 2 - longest_answer}, since the network has {room} positions",
        )


def image_grid(patch_image_size: int) -> int:
    """Image tokens along one edge: the ResNet halves the picture four times, rounding up."""
    size = patch_image_size
    for _ in range(4):
        size = (size + 1) // 2
    return size


def _typed(name: str, value: object, expected: type) -> object:
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not expected:
        raise UnsupportedConfig(f"config.json: {name}", value, _TYPE_NAMES[expected])
    return value


def _require(field: str, value: object, allowed: tuple[str, ...]) -> str:
    if value not in allowed or not isinstance(value, str):
        raise UnsupportedConfig(f"configuration.json: {field}", value, "only " + " or ".join(allowed))
    return value


def _size(field: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= MAX_BUCKET_POSITIONS:
        raise UnsupportedConfig(
            f"configuration.json: model.{field}", value, f"a whole number from 1 to {MAX_BUCKET_POSITIONS}"
        )
    return value


def _read_answers(folder: Path, name: object) -> tuple[str, ...]:
    """The answers in their file's order, which is the order of the scores."""
    if (
        not isinstance(name, str)
        or Path(name).name != name
        or not name.isprintable()
        or not 1 <= len(name.encode()) <= 255
    ):
        raise UnsupportedConfig(
            "configuration.json: model.answer2label", name, "the name of a file in the model folder"
        )
    return tuple(read_json(folder / name))


def _labels_of(answers: tuple[str, ...]) -> tuple[str, ...]:
    labels = tuple(ANSWER_LABELS.get(answer.strip().lower(), "") for answer in answers)
    if sorted(labels) != ["Maybe", "No", "Yes"] or max(map(len, answers)) > MAX_ANSWER:
        raise UnsupportedConfig(
            "configuration.json: model.answer2label",
            list(answers),
            "three answers meaning yes, no and maybe",
        )
    return labels


def _checked_prompt(prompt: object) -> str | None:
    if prompt is None:
        return None
    if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT or _slots(prompt) not in (1, 2):
        raise UnsupportedConfig(
            "configuration.json: model.prompt",
            prompt,
            f"a string of at most {MAX_PROMPT} characters with one or two {{}} slots",
        )
    return prompt


def _slots(prompt: str) -> int:
    """Count plain ``{}`` slots; 0 if there is any other kind of slot."""
    try:
        slots = [
            (name, spec, conversion)
            for _, name, spec, conversion in Formatter().parse(prompt)
            if name is not None
        ]
    except ValueError:
        return 0
    return len(slots) if all(slot == ("", "", None) for slot in slots) else 0
