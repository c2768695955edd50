"""Fused oneDNN operations: a product or convolution with the following GELU, ReLU or addition in one pass.

torch's compiler uses these operations; calling them directly avoids compilation and its pauses. They are
private to torch, so :func:`fuses` checks for them and callers have a fallback.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn


def fuses(x: Tensor) -> bool:
    """Whether operations on ``x`` can be fused: on a CPU, in fp32, or in bf16 if the CPU supports it."""
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return False
    return _supported(x.dtype)


@cache
def _supported(dtype: torch.dtype) -> bool:
    names = torch.ops.mkldnn
    try:
        if not (hasattr(names, "_linear_pointwise") and hasattr(names, "_convolution_pointwise")):
            return False
        return dtype is torch.float32 or (dtype is torch.bfloat16 and bool(names._is_mkldnn_bf16_supported()))
    except (AttributeError, RuntimeError):
        return False


def linear_gelu(x: Tensor, linear: nn.Linear) -> Tensor:
    """gelu(linear(x)), the exact GELU: (…, inputs) → (…, outputs)."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, linear.weight, linear.bias, "gelu", [], "none")
    return result


def conv_relu(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """relu(conv(x))"""
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, conv.weight, conv.bias, *_geometry(conv), "relu", [], ""
    )
    return result


def conv_add_relu(x: Tensor, conv: nn.Conv2d, shortcut: Tensor) -> Tensor:
    """relu(conv(x) + shortcut)"""
    result: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
        x, shortcut, conv.weight, conv.bias, *_geometry(conv), "add", None, "relu", [], ""
    )
    return result


def _geometry(conv: nn.Conv2d) -> tuple[object, ...]:
    return conv.padding, conv.stride, conv.dilation, conv.groups
