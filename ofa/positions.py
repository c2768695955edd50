"""Buckets of relative positions, recomputed instead of loaded.

ModelScope stores these tables in the checkpoint (50 MB in the 33 M model). They depend only on the bucket
sizes: ``make_token_bucket_position`` and ``make_image_bucket_position`` of its modeling_ofa.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ofa.config import MAX_BUCKET_POSITIONS


def token_buckets(bucket_size: int, length: int) -> Tensor:
    """Bucket of each (query, key) distance in a text: (length, length), int64 in [0, 2·bucket_size - 2].

    Near distances have a bucket each, far ones share logarithmically wider buckets, as in T5.
    """
    positions = torch.arange(length)
    distance = positions[:, None] - positions[None, :]
    middle = bucket_size // 2
    near = (distance < middle) & (distance > -middle)
    magnitude = torch.where(near, middle - 1, distance.abs())
    # In the original's order of operations, so that rounding does not move a bucket's edge.
    logarithmic = (
        torch.ceil(
            torch.log(magnitude / middle) / math.log((MAX_BUCKET_POSITIONS - 1) / middle) * (middle - 1)
        )
        + middle
    )
    bucket = torch.where(magnitude <= middle, distance, logarithmic.int() * torch.sign(distance)).long()
    return bucket + bucket_size - 1


def image_buckets(bucket_size: int, grid: int) -> Tensor:
    """Bucket of each (query, key) offset on a square grid: (grid², grid²), int64.

    Tokens run row by row. The table's last three rows are for a class token, which is not used.
    """
    rows = torch.arange(grid).repeat_interleave(grid)  # (grid²,)
    columns = torch.arange(grid).repeat(grid)
    vertical = rows[:, None] - rows[None, :] + bucket_size - 1
    horizontal = columns[:, None] - columns[None, :] + bucket_size - 1
    return vertical * (2 * bucket_size - 1) + horizontal


def image_bucket_count(bucket_size: int) -> int:
    """Rows of an image table: every offset, and three for the class token."""
    return (2 * bucket_size - 1) ** 2 + 3


def image_position_ids(bucket_size: int, grid: int) -> Tensor:
    """Row of ``embed_image_positions`` for each image token: (grid²,); row 0 is the class token's."""
    return (torch.arange(grid)[:, None] * bucket_size + torch.arange(grid)[None, :] + 1).flatten()
