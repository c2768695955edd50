"""Fold constant arithmetic into the weights, once after loading.

Computed in fp64 to avoid rounding: BatchNorm into the preceding convolution, head scales into the columns of
the output projection, the image's type embedding and the embedding scale into the image projection. The
query, key and value projections of self-attention become one product. The results are unchanged, but the
network can no longer be trained or saved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ofa.errors import Misfit
from ofa.layers import Attention, DecoderLayer, EncoderLayer
from ofa.network import OFA, Encoder
from ofa.vision import Bottleneck, ResNet


@torch.no_grad()
def fold(network: OFA) -> None:
    """Fold ``network`` in place. On the meta device only the structure changes, to load folded weights into:
    arithmetic there would make torch import its compiler. Raises Misfit if a picture weight is not finite."""
    for module in network.modules():
        if isinstance(module, Attention):
            _fold_heads(module)
    for layer in (*network.encoder.layers, *network.decoder.layers):
        if isinstance(layer, EncoderLayer | DecoderLayer):
            _fuse_projections(layer.self_attn)
    _fold_image_embedding(network.encoder)
    _fold_norms(network.encoder.embed_images)


def _fold_heads(attention: Attention) -> None:
    """out · (c ⊙ heads) = (out ⊙ c per column) · heads."""
    if attention.c_attn is None:
        return
    weight = attention.out_proj.weight
    if not weight.is_meta:
        scales = attention.c_attn.double().repeat_interleave(weight.shape[1] // attention.heads)
        attention.out_proj.weight = _parameter(weight.double() * scales, weight)
    attention.c_attn = None


def _fuse_projections(attention: Attention) -> None:
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    with torch.device("meta"):
        fused = nn.Linear(parts[0].in_features, 3 * parts[0].out_features)
    if not parts[0].weight.is_meta:
        fused.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
        fused.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
    attention.qkv = fused
    del attention.q_proj, attention.k_proj, attention.v_proj


def _fold_image_embedding(encoder: Encoder) -> None:
    """scale · (W x + b) + type = (scale · W) x + (scale · b + type)."""
    projection = encoder.image_proj
    encoder.image_folded = True
    if projection.weight.is_meta:
        return
    kind = 0.0 if encoder.type_embedding is None else encoder.type_embedding.weight[1].double()
    bias = encoder.embed_scale * projection.bias.double() + kind
    projection.weight, projection.bias = (
        _parameter(encoder.embed_scale * projection.weight.double(), projection.weight),
        _parameter(torch.as_tensor(bias), projection.bias),
    )


def _fold_norms(vision: ResNet) -> None:
    vision.conv1, vision.bn1 = _fold_norm(vision.conv1, vision.bn1, "conv1"), nn.Identity()
    for name, block in vision.named_modules():
        if isinstance(block, Bottleneck):
            for index in ("1", "2", "3"):
                conv, norm = getattr(block, "conv" + index), getattr(block, "bn" + index)
                setattr(block, "conv" + index, _fold_norm(conv, norm, f"{name}.conv{index}"))
                setattr(block, "bn" + index, nn.Identity())
            if block.downsample is not None:
                conv, norm = block.downsample[0], block.downsample[1]
                block.downsample = nn.Sequential(_fold_norm(conv, norm, f"{name}.downsample.0"))


def _fold_norm(conv: nn.Module, norm: nn.Module, name: str) -> nn.Conv2d:
    """Fold a norm into its convolution: γ (W x - μ) / √(σ² + ε) + β.

    Raises Misfit if the result is not finite: oneDNN's relu turns NaN into 0, so that no score would show it.
    """
    if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
        raise TypeError("a network can be folded only once")
    if norm.running_mean is None or norm.running_var is None:
        raise TypeError("a BatchNorm without statistics cannot be folded")
    if conv.weight.is_meta:
        conv.bias = nn.Parameter(torch.empty(norm.bias.shape, device="meta"), requires_grad=False)
        return conv
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()  # (out channels,)
    kernel = (conv.weight.double() * factor[:, None, None, None]).to(memory_format=torch.channels_last)
    conv.weight = _parameter(kernel, conv.weight)
    conv.bias = _parameter(norm.bias.double() - norm.running_mean.double() * factor, conv.weight)
    if not (conv.weight.isfinite().all() and conv.bias.isfinite().all()):
        raise Misfit(f"encoder.embed_images.{name} or its norm has values that are not finite")
    return conv


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype), requires_grad=False)
