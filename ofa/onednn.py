"""Fused oneDNN operations: a product or convolution with the following GELU, ReLU or addition in one pass.

torch's compiler uses these operations; calling them directly avoids compilation and its pauses. They are
private to torch, so :func:`fuses` checks for them and callers have a fallback. :func:`attention` does the
opposite: it replaces a fused kernel of torch, whose products do not use oneDNN.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from ofa import processor

#: Shortest sequence for :func:`attention`: at 64 tokens torch's kernel is faster, at 128 slower.
_LONG = 128


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


def attends(queries: Tensor) -> bool:
    """Whether :func:`attention` is faster than torch's kernel for (…, length, head width).

    It is for long sequences in bf16, where torch multiplies with MKL; not measured on a processor with AMX.
    """
    long = queries.dtype is torch.bfloat16 and queries.shape[-2] >= _LONG
    return long and queries.device.type == "cpu" and not torch.is_grad_enabled() and _has_bf16_without_amx()


@cache
def _has_bf16_without_amx() -> bool:
    return processor.kind() == "avx512_bf16"


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """softmax(scale · q kᵀ + bias) v by separate products.

    The logits are rounded to the format of ``q``, so those that matter should be near zero (:mod:`ofa.bias`).
    One batch entry at a time, to bound their memory.

    Args:
        q: (batch, heads, length, head width); ``k`` and ``v``: (batch, heads, context, head width).
        bias: broadcastable to (batch, heads, length, context).

    Returns:
        (batch, heads, length, head width), stored as (batch, length, heads, head width).
    """
    batch, heads, length, _ = q.shape
    mixed = q.new_empty(batch, length, heads, v.shape[-1]).transpose(1, 2)
    inputs = (q.contiguous(), k.contiguous(), v.contiguous(), bias.expand(batch, -1, -1, -1), mixed)
    for queries, keys, values, added, out in zip(*inputs, strict=True):
        logits = torch.baddbmm(added, queries, keys.transpose(1, 2), alpha=scale)
        torch.softmax(logits, -1, out=logits)
        out.copy_(torch.bmm(logits, values))
    return mixed


def _geometry(conv: nn.Conv2d) -> tuple[object, ...]:
    return conv.padding, conv.stride, conv.dilation, conv.groups
