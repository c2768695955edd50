"""Strict, weights-only loading of ``model.safetensors`` or ``pytorch_model.bin`` into the network.

The file is untrusted: nothing in it is executed, every key and shape is compared with what the
configuration asks for, and what is left out is listed here with its reason.
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

#: The file names looked for, in ModelScope's own order of preference.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

#: Keys of a checkpoint that a verdict does not need, as regular expressions.
IGNORED_KEYS = (
    r"(encoder|decoder)\.(token|image)_rp_bucket",  # position buckets: recomputed
    r"(encoder|decoder)\.version",  # fairseq's marker
    r"decoder\.image_position_idx",  # from here on: what only drawing pictures uses
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
    """The folder's weight file. Raises :class:`CheckpointError` when there is none."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError("the model folder has neither " + " nor ".join(WEIGHT_FILES))


def load_weights(network: OFA, folder: Path) -> None:
    """Fill ``network`` (possibly on the meta device) with the folder's weights, in fp32.

    Raises:
        CheckpointError: a damaged file; Misfit: keys or shapes that do not fit.
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
        CheckpointError: damaged, truncated, or holding anything but tensors; Misfit: too many of them.
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
    except Exception as error:  # whatever an untrusted file makes the parsers raise, it is no weight file
        raise CheckpointError(f"{path.name} is damaged, truncated or no weight file") from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CheckpointError(f"{path.name} must hold a mapping from keys to tensors and nothing else")
    return state


def is_ignored(key: str) -> bool:
    """Whether a checkpoint's key is one of :data:`IGNORED_KEYS`."""
    return any(re.fullmatch(pattern, key) for pattern in IGNORED_KEYS)


def _share_embedding(state: dict[str, Tensor], with_output: bool) -> None:
    """Complete the shared embedding's keys from whichever is stored; _compare names them if none is."""
    keys = _SHARED if with_output else _SHARED[:2]
    first = next((state[key] for key in keys if key in state), None)
    if first is not None:
        state.update({key: first for key in keys if key not in state})


def _compare(state: dict[str, Tensor], network: OFA) -> None:
    """Refuse missing, unknown and misshapen keys, naming the first few."""
    wanted = network.state_dict()
    for key in wanted:
        if key.endswith(_COUNTER):
            state.setdefault(key, torch.zeros((), dtype=torch.int64))
    problems = [f"missing {key}" for key in wanted if key not in state]
    problems += [f"unknown {shown(key)}" for key in state if key not in wanted]
    for key, value in state.items():
        if key in wanted and value.shape != wanted[key].shape:
            problems.append(f"{key} is {shown(tuple(value.shape))}, not {tuple(wanted[key].shape)}")
        elif key in wanted and value.is_floating_point() != wanted[key].is_floating_point():
            problems.append(f"{key} is {value.dtype}")
        elif key in wanted and (value.layout is not torch.strided or value.is_meta or value.is_quantized):
            problems.append(f"{key} is not a plain tensor")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise Misfit("the weights do not fit config.json: " + "; ".join(problems[:5]) + more)


def _refuse_more_weights_than_bytes(network: OFA, path: Path) -> None:
    """A tensor may say that its numbers are one number repeated: shapes alone bound no memory."""
    wanted, stored = sum(one.numel() for one in network.parameters()), path.stat().st_size
    if wanted > stored:
        raise Misfit(f"config.json asks for {wanted} parameters, and {path.name} has {stored} bytes")


def _refuse_differing_copies(state: dict[str, Tensor], with_output: bool) -> None:
    """ModelScope ties the copies of the shared embedding before loading, so that the last one would win."""
    first = state[_SHARED[0]]
    for key in _SHARED[1 : 3 if with_output else 2]:
        if state[key] is not first and not torch.equal(state[key].float(), first.float()):
            raise Misfit(f"{key} differs from {_SHARED[0]}, though the configuration shares them")
