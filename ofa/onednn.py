"""Products and convolutions with what follows them, in one pass over memory.

oneDNN can apply GELU, ReLU or an addition while a result is still in the processor's registers. torch's
compiler uses that by itself; called by name it spares the compiling and the pauses. The names are private to
torch, so :func:`fuses` asks for them first, and whoever calls has another way.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn


def fuses(x: Tensor) -> bool:
    """Whether what comes of ``x`` may be computed so: on a CPU, fp32, or bf16 where it multiplies that."""
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
