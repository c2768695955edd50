"""Strict, weights-only loading of ``model.safetensors`` or ``pytorch_model.bin`` into the network.

The file is untrusted: nothing in it is executed, all keys and shapes must match the configuration, and
ignored keys are listed here with the reason.
"""

from __future__ import annotations

import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ofa.archive import MAX_HEAD, damaged, head_fits
from ofa.errors import CheckpointError, Misfit, shown
from ofa.network import OFA

#: Accepted file names, in ModelScope's order of preference.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

#: Keys that inference does not need, as regular expressions.
IGNORED_KEYS = (
    r"(encoder|decoder)\.(token|image)_rp_bucket",  # position buckets: recomputed
    r"(encoder|decoder)\.version",  # fairseq's marker
    r"decoder\.image_position_idx",  # this and the next four: image generation only
    r"decoder\.image_rel_pos_table_list\.\d+\.weight",
    r"decoder\.embed_image_positions\.weight",
    r"decoder\.image_pos_ln\.(weight|bias)",
    r"decoder\.code_layernorm_embedding\.(weight|bias)",
    r"mlp_head\.(weight|bias)",  # a head for contrastive training
    r"temp",
)
_SHARED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")
_COUNTER = "num_batches_tracked"  # BatchNorm's, used in training alone


def find_weights(folder: Path) -> Path:
    """The folder's weight file. Raises :class:`CheckpointError` if there is none."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError("the model folder has neither " + " nor ".join(WEIGHT_FILES))


def load_weights(network: OFA, folder: Path) -> None:
    """Fill ``network`` (possibly on the meta device) with the folder's weights, in fp32.

    Raises:
        CheckpointError: the file is damaged.
        Misfit: keys or shapes do not match the configuration.
    """
    path = find_weights(folder)
    state = read_state(path)
    if damaged(path):
        raise CheckpointError(f"{path.name} is damaged: its content differs from its checksums")
    state = {key: value for key, value in state.items() if not is_ignored(key)}
    with_output = network.config.share_decoder_input_output_embed
    _share_embedding(state, with_output)
    _compare(state, network)
    _refuse_more_weights_than_bytes(network, path)
    _refuse_differing_copies(state, with_output)
    cast = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    network.load_state_dict(cast, strict=True, assign=True)
    network.tie_embeddings()


def read_state(path: Path) -> dict[str, Tensor]:
    """Every tensor of a weight file by its key, memory-mapped where the format allows.

    Raises:
        CheckpointError: the file is damaged, truncated, or contains anything but tensors.
        Misfit: the header is too large.
    """
    try:
        if not head_fits(path):
            raise Misfit(f"{path.name} takes more than {MAX_HEAD} bytes to name its tensors")
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used with files saved with" not in str(error):
                raise
            state = torch.load(path, map_location="cpu", weights_only=True)  # the format before torch 1.6
    except (MemoryError, Misfit):
        raise
    except Exception as error:  # parsers raise anything on an untrusted file
        raise CheckpointError(f"{path.name} is damaged, truncated or no weight file") from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CheckpointError(f"{path.name} must contain only a mapping from keys to tensors")
    return state


def is_ignored(key: str) -> bool:
    """Whether a checkpoint's key is one of :data:`IGNORED_KEYS`."""
    return any(re.fullmatch(pattern, key) for pattern in IGNORED_KEYS)


def _share_embedding(state: dict[str, Tensor], with_output: bool) -> None:
    """Fill in missing keys of the shared embedding from a stored one; _compare reports if there is none."""
    keys = _SHARED if with_output else _SHARED[:2]
    first = next((state[key] for key in keys if key in state), None)
    if first is not None:
        state.update({key: first for key in keys if key not in state})


def _compare(state: dict[str, Tensor], network: OFA) -> None:
    """Refuse missing, unknown and mismatched keys, naming the first five."""
    expected = network.state_dict()
    for key in expected:
        if key.endswith(_COUNTER):
            state.setdefault(key, torch.zeros((), dtype=torch.int64))
    problems = [f"missing {key}" for key in expected if key not in state]
    problems += [f"unknown {shown(key)}" for key in state if key not in expected]
    for key, value in state.items():
        if key in expected and value.shape != expected[key].shape:
            problems.append(f"{key} is {shown(tuple(value.shape))}, not {tuple(expected[key].shape)}")
        elif key in expected and value.is_floating_point() != expected[key].is_floating_point():
            problems.append(f"{key} is {value.dtype}")
        elif key in expected and (value.layout is not torch.strided or value.is_meta or value.is_quantized):
            problems.append(f"{key} is not a plain tensor")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise Misfit("the weights do not fit config.json: " + "; ".join(problems[:5]) + more)


def _refuse_more_weights_than_bytes(network: OFA, path: Path) -> None:
    """Bound the memory: a stored tensor may repeat one number by its strides, whatever its shape."""
    expected, stored = sum(one.numel() for one in network.parameters()), path.stat().st_size
    if expected > stored:
        raise Misfit(f"config.json requires {expected} parameters, but {path.name} has {stored} bytes")


def _refuse_differing_copies(state: dict[str, Tensor], with_output: bool) -> None:
    """Refuse copies of the shared embedding that differ: ModelScope would use the last one."""
    first = state[_SHARED[0]]
    for key in _SHARED[1 : 3 if with_output else 2]:
        if state[key] is not first and not torch.equal(state[key].float(), first.float()):
            raise Misfit(f"{key} differs from {_SHARED[0]}, though the configuration shares them")
