"""Make the int8 weights of :mod:`ofa.int8` from a folded network in fp32.

Activations of transformers have a few channels with large values, which would leave the others few steps.
As in SmoothQuant (Xiao et al. 2022, https://arxiv.org/abs/2211.10438), each channel is divided by a factor
with which the weights are multiplied. The factor costs nothing, since it moves into what precedes the
product: a LayerNorm, or the value projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ofa.int8 import LARGEST, PRODUCTS
from ofa.layers import EncoderLayer
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.vision import Bottleneck, CancelPoint

#: The exponent α of SmoothQuant: how far large values move from the activations to the weights.
_SHARE = 0.5
_SMALLEST = 1e-5  # of a channel's largest value, so that no factor is extreme

#: Largest absolute value of each input channel, by the product's name.
_Largest = dict[str, Tensor]


@torch.no_grad()
def int8_state(
    model: EntailmentModel, pairs: Sequence[Pair], cancel_point: CancelPoint | None = None
) -> dict[str, Tensor]:
    """The tensors of :data:`ofa.int8.Int8State`; ``pairs`` show the range of the activations.

    Args:
        model: in fp32, on a CPU.
    """
    largest = _largest_inputs(model, pairs, cancel_point)
    state: dict[str, Tensor] = {}
    for number, layer in enumerate(model.network.encoder.layers):
        assert isinstance(layer, EncoderLayer)
        _add_layer(state, layer, f"encoder.layers.{number}", largest)
    for name, block in model.network.named_modules():
        if isinstance(block, Bottleneck):
            convolutions = {f"conv{index}": getattr(block, f"conv{index}") for index in (1, 2, 3)}
            if block.downsample is not None:
                convolutions["downsample.0"] = block.downsample[0]
            for child, conv in convolutions.items():
                _add(state, f"{name}.{child}", conv.weight.double(), conv.bias)
    return state


def _add_layer(state: dict[str, Tensor], layer: EncoderLayer, name: str, largest: _Largest) -> None:
    qkv = layer.self_attn.qkv
    assert qkv is not None  # folded
    products = dict(zip(PRODUCTS, (qkv, layer.self_attn.out_proj, layer.fc1, layer.fc2), strict=True))
    weights = {key: product.weight.double() for key, product in products.items()}
    biases = {key: product.bias.double() for key, product in products.items()}

    def smooth(product: str) -> Tensor:
        factor = _factor(largest[f"{name}.{product}"], weights[product])
        weights[product] = weights[product] * factor
        return factor

    norms: dict[str, str] = {}
    if layer.pre_norm:
        norms = {"self_attn.qkv": "self_attn_layer_norm", "fc1": "final_layer_norm"}
    if layer.ffn_layer_norm is not None:
        norms["fc2"] = "ffn_layer_norm"
    for product, norm in norms.items():
        factor = smooth(product)
        for part in ("weight", "bias"):
            value = layer.get_submodule(norm).get_parameter(part)
            state[f"{name}.{norm}.{part}"] = (value.double() / factor).float()
    factor = smooth("self_attn.out_proj")
    factor = torch.cat([torch.ones(2 * len(factor)).double(), factor])  # only the values
    weights["self_attn.qkv"] = weights["self_attn.qkv"] / factor[:, None]
    biases["self_attn.qkv"] = biases["self_attn.qkv"] / factor
    for product in PRODUCTS:
        _add(state, f"{name}.{product}", weights[product], biases[product])


def _factor(inputs: Tensor, weight: Tensor) -> Tensor:
    """(inputs,): what each input channel is divided by."""
    columns = weight.abs().amax(0).clamp_min(_SMALLEST)
    return inputs.double().clamp_min(_SMALLEST) ** _SHARE / columns ** (1 - _SHARE)


def _add(state: dict[str, Tensor], name: str, weight: Tensor, bias: Tensor) -> None:
    """Quantise a product: one step for each output."""
    step = weight.abs().flatten(1).amax(1).clamp_min(torch.finfo(torch.float32).tiny * LARGEST) / LARGEST
    by_output = step.view(-1, *[1] * (weight.dim() - 1))
    state[f"{name}.weight"] = (weight / by_output).round().to(torch.int8).contiguous()
    state[f"{name}.step"], state[f"{name}.bias"] = step.float(), bias.float()


def _largest_inputs(
    model: EntailmentModel, pairs: Sequence[Pair], cancel_point: CancelPoint | None
) -> _Largest:
    largest: _Largest = {}
    with _inputs_recorded(model.network.encoder.layers, largest):
        for pair in pairs:
            model.judge([pair], cancel_point)
    return largest


@contextmanager
def _inputs_recorded(layers: nn.ModuleList, largest: _Largest) -> Iterator[None]:
    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        here = inputs[0].flatten(0, -2).abs().amax(0).float()
        largest[name] = torch.maximum(largest[name], here) if name in largest else here

    hooks = [
        layer.get_submodule(product).register_forward_pre_hook(
            partial(record, f"encoder.layers.{number}.{product}")
        )
        for number, layer in enumerate(layers)
        for product in PRODUCTS
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
