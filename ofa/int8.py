"""The picture's and the encoder's products in int8, sharing the rest with the network they were made from.

Weights have one step per output, activations one per product and request: products take one picture and one
text at a time, so that no request depends on its neighbours. Sums are exact; what is not int8 is rounded as
on each processor. :mod:`ofa.quantize` makes the weights.

oneDNN multiplies, through operations that torch has for its compiler; :func:`supported` checks for them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa import processor
from ofa.layers import EncoderLayer
from ofa.network import OFA
from ofa.vision import Bottleneck

#: Tensors by name: ``NAME.weight`` (int8), ``NAME.step`` and ``NAME.bias`` (fp32) of a product;
#: ``NAME.weight`` and ``NAME.bias`` (fp32) of a norm that differs from the network's.
Int8State = Mapping[str, Tensor]

#: The products of an encoder layer.
PRODUCTS = ("self_attn.qkv", "self_attn.out_proj", "fc1", "fc2")
#: Largest steps of the symmetric and of the positive range.
LARGEST, _LARGEST_POSITIVE = 127, 255
_ZERO = 128  # stands for zero, since oneDNN has no fast kernel for signed activations
_Module = TypeVar("_Module", bound=nn.Module)
_SMALLEST = 1e-30  # keeps a step from being zero


@cache
def supported() -> bool:
    """Whether the processor multiplies int8 exactly and this torch has the operations."""
    names = ("qlinear_prepack", "qlinear_pointwise", "qconv_prepack", "qconv2d_pointwise")
    return processor.kind() in processor.INT8 and all(hasattr(torch.ops.onednn, name) for name in names)


def int8_network(network: OFA, state: Int8State) -> OFA:
    """A network with the products of ``state`` that shares everything else with ``network``, which is folded
    and on a CPU."""
    result, encoder = _shallow(network), _shallow(network.encoder)
    vision = _shallow(encoder.embed_images)
    for name in ("layer1", "layer2", "layer3"):
        blocks = getattr(vision, name)
        prefix = f"encoder.embed_images.{name}"
        setattr(
            vision,
            name,
            nn.Sequential(*(Int8Bottleneck(b, state, f"{prefix}.{n}") for n, b in enumerate(blocks))),
        )
    encoder.embed_images = vision
    layers = (_layer(layer, state, f"encoder.layers.{n}") for n, layer in enumerate(encoder.layers))
    encoder.layers = nn.ModuleList(layers)
    result.encoder = encoder
    return result.eval()


class Int8Linear(nn.Module):
    """A linear layer, or a 1×1 convolution of channels-last rows, in int8.

    Args:
        name: of the tensors in ``state``.
        after: "none", "relu" or "gelu" (the exact GELU).
    """

    def __init__(self, state: Int8State, name: str, after: str = "none") -> None:
        super().__init__()
        weight = state[f"{name}.weight"].flatten(1)
        self._step, self._bias, self._after = state[f"{name}.step"], state[f"{name}.bias"], after
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._packed = torch.ops.onednn.qlinear_prepack(weight, None)

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs)"""
        low, high = torch.aminmax(x)
        step = max(-float(low), float(high), _SMALLEST) / LARGEST
        # torch converts to int8 four times as fast as to uint8; the addition wraps to the same bits.
        steps = x.mul(1 / step).round_().to(torch.int8).add_(-_ZERO).view(torch.uint8)
        return self._product(steps, step, _ZERO, x.dtype)

    def of_positive(self, steps: Tensor, step: float, dtype: torch.dtype) -> Tensor:
        """The product of what :func:`_positive_steps` returned."""
        return self._product(steps, step, 0, dtype)

    def added(self, steps: Tensor, step: float, shortcut: Tensor) -> Tensor:
        """relu(product + shortcut), as :meth:`of_positive`."""
        result: Tensor = torch.ops.onednn.qlinear_pointwise.binary(
            steps, step, 0, self._packed, self._step, self._zeros, shortcut, self._bias,
            1.0, 0, shortcut.dtype, 1.0, 0, "add", 1.0, "relu", [], "",
        )  # fmt: skip
        return result

    def _product(self, steps: Tensor, step: float, zero: int, dtype: torch.dtype) -> Tensor:
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            steps, step, zero, self._packed, self._step, self._zeros, self._bias,
            1.0, 0, dtype, self._after, [], "none",
        )  # fmt: skip
        return result


class _Int8Conv(nn.Module):
    """relu of a 3×3 convolution in int8."""

    def __init__(self, conv: nn.Conv2d, state: Int8State, name: str) -> None:
        super().__init__()
        self._step, self._bias = state[f"{name}.step"], state[f"{name}.bias"]
        self._geometry = conv.stride, conv.padding, conv.dilation, conv.groups
        self._zeros = torch.zeros(conv.out_channels, dtype=torch.int32)
        weight = state[f"{name}.weight"]
        self._packed = torch.ops.onednn.qconv_prepack(weight, self._step, 1.0, 0, *self._geometry, None)

    def forward(self, steps: Tensor, step: float, dtype: torch.dtype) -> Tensor:
        result: Tensor = torch.ops.onednn.qconv2d_pointwise(
            steps, step, 0, self._packed, self._step, self._zeros, self._bias, *self._geometry,
            1.0, 0, dtype, "relu", [], "",
        )  # fmt: skip
        return result


class Int8Bottleneck(nn.Module):
    """A folded :class:`ofa.vision.Bottleneck` in int8."""

    def __init__(self, block: Bottleneck, state: Int8State, name: str) -> None:
        super().__init__()
        self.conv1 = Int8Linear(state, f"{name}.conv1", "relu")
        self.conv2 = _Int8Conv(block.conv2, state, f"{name}.conv2")
        self.conv3 = Int8Linear(state, f"{name}.conv3")
        self.downsample = None if block.downsample is None else Int8Linear(state, f"{name}.downsample.0")
        self._stride = block.conv2.stride[0]

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) → (batch, 4·planes, height/stride, width/stride), channels last."""
        dtype, rows = x.dtype, x.permute(0, 2, 3, 1)  # contiguous, as rows of a product
        steps, step = _positive_steps(rows)
        shortcut = rows
        if self.downsample is not None:
            taken = steps[:, :: self._stride, :: self._stride].contiguous()
            shortcut = self.downsample.of_positive(taken, step, dtype)
        steps, step = _positive_steps(self.conv1.of_positive(steps, step, dtype))
        seen = self.conv2(steps.permute(0, 3, 1, 2), step, dtype)
        steps, step = _positive_steps(seen.permute(0, 2, 3, 1))
        return self.conv3.added(steps, step, shortcut).permute(0, 3, 1, 2)


def _positive_steps(x: Tensor) -> tuple[Tensor, float]:
    """Values of at least zero as uint8, and the value of a step."""
    step = max(float(torch.aminmax(x)[1]), _SMALLEST) / _LARGEST_POSITIVE
    return x.mul(1 / step).round_().sub_(_ZERO).to(torch.int8).add_(-_ZERO).view(torch.uint8), step


def _layer(layer: nn.Module, state: Int8State, name: str) -> EncoderLayer:
    if not isinstance(layer, EncoderLayer):
        raise TypeError(f"an encoder layer must be an EncoderLayer, not {type(layer).__name__}")
    result, attention = _shallow(layer), _shallow(layer.self_attn)
    attention.set_submodule("qkv", Int8Linear(state, f"{name}.self_attn.qkv"))
    attention.set_submodule("out_proj", Int8Linear(state, f"{name}.self_attn.out_proj"))
    result.self_attn = attention
    fuses = layer.activation is functional.gelu
    result.set_submodule("fc1", Int8Linear(state, f"{name}.fc1", "gelu" if fuses else "none"))
    result.set_submodule("fc2", Int8Linear(state, f"{name}.fc2"))
    if fuses:
        result.activation = nn.Identity()
    for norm in ("self_attn_layer_norm", "final_layer_norm", "ffn_layer_norm"):
        if f"{name}.{norm}.weight" in state:
            setattr(result, norm, _norm(getattr(layer, norm), state, f"{name}.{norm}"))
    return result


def _norm(norm: nn.LayerNorm, state: Int8State, name: str) -> nn.LayerNorm:
    result = _shallow(norm)
    result.weight, result.bias = (
        nn.Parameter(state[f"{name}.{one}"].to(norm.weight.dtype), requires_grad=False)
        for one in ("weight", "bias")
    )
    return result


def _shallow(module: _Module) -> _Module:
    """A copy that shares parameters and children, which can be replaced in it."""
    result = copy.copy(module)
    result._modules, result._parameters = dict(module._modules), dict(module._parameters)
    return result
