"""Reproducible random weights: PCG64's raw bits, seeded by folder and key.

Raw bits, because NumPy guarantees their stream and not that of its distributions. Relative-position tables,
head scales and BatchNorm statistics get non-trivial values, since zero or one would hide mistakes. Attention
is sharp enough for picture, text and position to change the answer, and no sharper: at 1.5 times this gain,
fp32 rounding moves probabilities by 5e-6, half the tolerance.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def random_tensor(seed: int, key: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Return the weight `key` of the folder with `seed`: float32, or int64 for BatchNorm's counter."""
    if key.endswith("num_batches_tracked"):
        return np.asarray(1, dtype=np.int64)
    centre, spread = _centre_and_spread(key, shape)
    return (centre + spread * math.sqrt(3.0) * _signed_uniform(seed, key, shape)).astype(np.float32)


def _signed_uniform(seed: int, key: str, shape: tuple[int, ...]) -> Floats:
    """Return uniform values in [-1, 1), 24 bits each."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    count = math.prod(shape)
    raw = np.random.PCG64(int.from_bytes(digest[:16], "little")).random_raw((count + 1) // 2)
    bits = np.atleast_1d(raw).astype("<u8", copy=False).view("<u4")[:count] >> np.uint32(8)
    return (bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)).reshape(shape)


def _centre_and_spread(key: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return mean and standard deviation for a key."""
    name = key.rsplit(".", 1)[-1]
    if "embed_images" in key:
        return _convolutional(key, name, shape)
    if name == "c_attn":
        return 1.0, 0.3
    if "rel_pos_table" in key:
        return 0.0, 0.5
    if "layer_norm" in key or "layernorm" in key or "pos_ln" in key:
        return (1.0, 0.15) if name == "weight" else (0.0, 0.1)
    if name == "bias":
        return 0.0, 0.1
    width = shape[-1]
    if "embed_tokens" in key or "output_projection" in key:
        return 0.0, 1.2 * width**-0.5
    if "embed" in key:
        return 0.0, 0.5 * width**-0.5
    gain = 1.5 if "q_" in key or "k_" in key else 1.0
    return 0.0, gain * width**-0.5


def _convolutional(key: str, name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return those of the ResNet: He scale, and a last BatchNorm per block that is stable over 36 blocks."""
    if len(shape) == 4:
        return 0.0, math.sqrt(2.0 / math.prod(shape[1:]))
    if name == "running_mean":
        return 0.0, 0.15
    if name == "running_var":
        return 1.0, 0.25
    if name == "bias":
        return 0.0, 0.1
    return (0.35 if ".bn3." in key else 1.0), 0.12
