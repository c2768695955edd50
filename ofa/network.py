"""Encoder, decoder and the complete OFA network. Attribute names equal the checkpoint's keys.

The attention bias (absolute q·k of position embeddings plus relative tables) depends only on the grid and the
text length. It is therefore an optional argument of both halves: inference computes it once
(:mod:`ofa.bias`), training omits it and gets its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ofa.config import RESNET_BLOCKS, NetworkConfig
from ofa.layers import DecoderLayer, EncoderLayer, hidden_keys, position_logits
from ofa.positions import image_bucket_count, image_buckets, image_position_ids, token_buckets
from ofa.vision import WIDTH, CancelPoint, ResNet

#: A bias per layer, each broadcastable to (batch, heads, queries, keys); shared layers share the tensor.
LayerBias = list[Tensor]

#: Submodules for positions only; computed once for many requests, so they stay in fp32.
_FP32_CHILDREN = frozenset(
    {
        "embed_positions",
        "embed_image_positions",
        "pos_ln",
        "image_pos_ln",
        "pos_q_linear",
        "pos_k_linear",
        "self_pos_q_linear",
        "self_pos_k_linear",
        "cross_pos_q_linear",
        "cross_pos_k_linear",
        "token_rel_pos_table_list",
        "image_rel_pos_table_list",
    }
)


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """The encoder's output for the decoder.

    Attributes:
        states: (batch, source, width), image tokens first.
        positions: normalised position embeddings, (source, width), fp32; None if the bias was given.
        padding: (batch, source) bool, True at padding; None without padding.
    """

    states: Tensor
    positions: Tensor | None
    padding: Tensor | None


@dataclass(frozen=True, slots=True)
class DecoderBias:
    """The decoder's bias for a prompt length and a source length; leading slices serve shorter ones.

    Attributes:
        own: self-attention bias of each layer, (1, heads, length, length), -inf above the diagonal.
        cross: cross-attention bias of all layers, (1, heads, length, source).
    """

    own: LayerBias
    cross: Tensor

    def cut(self, length: int, dtype: torch.dtype) -> DecoderBias:
        """The bias for the first ``length`` tokens of the prompt, in ``dtype``."""
        # By id, so that shared layers still share the tensor.
        cast = {id(one): one[..., :length, :length].to(dtype) for one in self.own}
        return DecoderBias([cast[id(one)] for one in self.own], self.cross[..., :length, :].to(dtype))


class Encoder(nn.Module):
    """Encodes image and text to one sequence of states: grid² image tokens, then the text's."""

    def __init__(self, config: NetworkConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        width, heads = config.d_model, config.encoder_attention_heads
        self.config = config
        self.embed_scale = width**0.5 if config.scale_embedding else 1.0
        self.position_scale = (width / heads * config.attn_scale_factor) ** -0.5
        self.image_folded = False  # by ofa.fold: image_proj includes scale and type embedding
        self.embed_tokens = embed_tokens
        self.embed_images = ResNet(RESNET_BLOCKS[config.resnet_type])
        self.image_proj = nn.Linear(WIDTH, width)
        self.type_embedding = nn.Embedding(2, width) if config.add_type_embedding else None
        self.layernorm_embedding = nn.LayerNorm(width) if config.layernorm_embedding else None
        self.patch_layernorm_embedding = nn.LayerNorm(width) if config.patch_layernorm_embedding else None
        self.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width)
        self.embed_image_positions = nn.Embedding(config.image_bucket_size**2 + 1, width)
        self.pos_ln = nn.LayerNorm(width)
        self.image_pos_ln = nn.LayerNorm(width)
        self.pos_q_linear = nn.Linear(width, width)
        self.pos_k_linear = nn.Linear(width, width)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(width) if config.encoder_normalize_before else None
        tables = 1 if config.share_attn_bias else config.encoder_layers
        self.token_rel_pos_table_list = nn.ModuleList(
            nn.Embedding(2 * config.token_bucket_size - 1, heads) for _ in range(tables)
        )
        self.image_rel_pos_table_list = nn.ModuleList(
            nn.Embedding(image_bucket_count(config.image_bucket_size), heads) for _ in range(tables)
        )

    def forward(
        self,
        tokens: Tensor,
        features: Tensor,
        padding: Tensor | None = None,
        bias: LayerBias | None = None,
        cancel_point: CancelPoint | None = None,
    ) -> EncoderOutput:
        """Encode texts with the image features of :meth:`see`.

        Args:
            tokens: (batch, length) ids.
            features: (batch, grid², 1024).
            padding: (batch, length) bool, True at padding; None without padding.
            bias: :meth:`attention_bias` for this grid and length, computed here if None.
        """
        grid = round(features.shape[1] ** 0.5)
        positions = None
        if bias is None:
            positions = self.positions(grid, tokens.shape[1])
            bias = self.attention_bias(grid, tokens.shape[1])
        x = self._embed(tokens, features, grid)
        hidden = None
        if padding is not None:
            padding = functional.pad(padding, (features.shape[1], 0))  # image tokens are never padded
            x = x.masked_fill(padding[:, :, None], 0.0)
            hidden = hidden_keys(padding, x.dtype)
        for layer, layer_bias in zip(self.layers, bias, strict=True):
            if cancel_point is not None:
                cancel_point()
            x = layer(x, layer_bias, hidden)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return EncoderOutput(x, positions, padding)

    def see(self, pixels: Tensor, cancel_point: CancelPoint | None = None) -> Tensor:
        """Image features, independent of the text: (batch, 3, size, size) → (batch, grid², 1024)."""
        features: Tensor = self.embed_images(pixels, cancel_point)
        return features.flatten(2).transpose(1, 2)

    def positions(self, grid: int, length: int) -> Tensor:
        """Normalised position embeddings of image and text: (grid² + length, width), fp32."""
        image = _norm32(self.image_pos_ln, self._image_positions(grid))
        text = _norm32(self.pos_ln, self.embed_positions.weight[:length].float())
        return torch.cat([image, text])

    def attention_bias(self, grid: int, length: int) -> LayerBias:
        """The bias of each layer, (1, heads, grid² + length, grid² + length), fp32.

        The bias for a shorter text is the leading slice of the one for a longer text.
        """
        absolute, image = self.absolute_bias(grid, length), grid * grid
        biases = [
            # Padding places each block on the diagonal.
            (
                absolute
                + functional.pad(near, (0, length, 0, length))
                + functional.pad(text, (image, 0, image, 0))
            )[None]
            for near, text in self.relative_bias(grid, length)
        ]
        return biases * len(self.layers) if self.config.share_attn_bias else biases

    def absolute_bias(self, grid: int, length: int) -> Tensor:
        """The part of the bias that all layers share, (heads, grid² + length, grid² + length), fp32."""
        positions = self.positions(grid, length)
        return position_logits(
            _linear32(self.pos_q_linear, positions),
            _linear32(self.pos_k_linear, positions),
            self.config.encoder_attention_heads,
            self.position_scale,
        )

    def relative_bias(
        self, grid: int, length: int, scratch: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The relative bias of each table, fp32: between image tokens, (heads, grid², grid²), and between
        text tokens, (heads, length, length). There is none between image and text.

        Args:
            scratch: buffer for the former, (heads, grid⁴), overwritten by the next table; not for training.
        """
        device = self.pos_q_linear.weight.device
        image = image_buckets(self.config.image_bucket_size, grid).to(device)
        text = token_buckets(self.config.token_bucket_size, length).to(device)
        for token_table, image_table in zip(
            self.token_rel_pos_table_list, self.image_rel_pos_table_list, strict=True
        ):
            yield _looked_up(image, image_table, scratch), _looked_up(text, token_table)

    def _embed(self, tokens: Tensor, features: Tensor, grid: int) -> Tensor:
        """Project, type and normalise both, image first: (batch, grid² + length, width)."""
        text = self.embed_scale * self.embed_tokens(tokens)
        image = self.image_proj(features)
        if not self.image_folded:
            image = self.embed_scale * image
            if self.type_embedding is not None:
                image = image + self.type_embedding.weight[1]
        if self.config.entangle_position_embedding:
            text = text + self.embed_positions.weight[: tokens.shape[1]].to(text.dtype)
            image = image + self._image_positions(grid).to(image.dtype)
        if self.type_embedding is not None:
            text = text + self.type_embedding.weight[0]
        if self.layernorm_embedding is not None:
            text = self.layernorm_embedding(text)
        if self.patch_layernorm_embedding is not None:
            image = self.patch_layernorm_embedding(image)
        return torch.cat([image, text], dim=1)

    def _image_positions(self, grid: int) -> Tensor:
        """Raw position embeddings of the image tokens: (grid², width), fp32."""
        table = self.embed_image_positions.weight.float()
        trained = self.config.orig_patch_image_size // 16
        if not (self.config.interpolate_position and grid > trained):
            return functional.embedding(
                image_position_ids(self.config.image_bucket_size, grid).to(table.device), table
            )
        # Interpolate the positions of the training size to the larger grid.
        ids = image_position_ids(self.config.image_bucket_size, trained).to(table.device)
        square = functional.embedding(ids, table).T.reshape(1, -1, trained, trained)
        stretched = functional.interpolate(square, size=(grid, grid), mode="bilinear")
        return stretched[0].flatten(1).T


class Decoder(nn.Module):
    """Decodes a prompt given the encoder's states: the text half of OFA's decoder."""

    def __init__(self, config: NetworkConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        width, heads = config.d_model, config.decoder_attention_heads
        self.config = config
        self.embed_scale = width**0.5 if config.scale_embedding else 1.0
        self.position_scale = (width / heads * config.attn_scale_factor) ** -0.5
        self.embed_tokens = embed_tokens
        self.layernorm_embedding = nn.LayerNorm(width) if config.layernorm_embedding else None
        self.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width)
        self.pos_ln = nn.LayerNorm(width)
        self.self_pos_q_linear = nn.Linear(width, width)
        self.self_pos_k_linear = nn.Linear(width, width)
        self.cross_pos_q_linear = nn.Linear(width, width)
        self.cross_pos_k_linear = nn.Linear(width, width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.layer_norm = nn.LayerNorm(width) if config.decoder_normalize_before else None
        tables = 1 if config.share_attn_bias else config.decoder_layers
        self.token_rel_pos_table_list = nn.ModuleList(
            nn.Embedding(2 * config.token_bucket_size - 1, heads) for _ in range(tables)
        )
        self.output_projection = nn.Linear(width, config.vocab_size, bias=False)

    def absorbs(self, length: int) -> bool:
        """Whether prompts of ``length`` tokens use :meth:`Attention.absorbed` for cross-attention."""
        layer = self.layers[0]  # all layers are alike
        return isinstance(layer, DecoderLayer) and layer.cross_attn.absorbs(length)

    def forward(
        self,
        tokens: Tensor,
        source: EncoderOutput,
        bias: DecoderBias | None = None,
        cancel_point: CancelPoint | None = None,
    ) -> Tensor:
        """States after the last norm, before the output projection: (batch, length) → (batch, length, width).

        Args:
            bias: :meth:`attention_bias` for at least this length, computed here if None.
        """
        length = tokens.shape[1]
        if bias is None:
            if source.positions is None:
                raise ValueError("the decoder needs a bias if the encoder was given one")
            bias = self.attention_bias(length, source.positions)
        bias = bias.cut(length, source.states.dtype)
        cross_bias = bias.cross if source.padding is None else _mask_keys(bias.cross, source.padding)
        x = self.embed_scale * self.embed_tokens(tokens)
        if self.config.entangle_position_embedding and not self.config.disable_entangle:
            x = x + self.embed_positions.weight[:length].to(x.dtype)
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        for layer, layer_bias in zip(self.layers, bias.own, strict=True):
            if cancel_point is not None:
                cancel_point()
            x = layer(x, source.states, layer_bias, cross_bias)
        decoded: Tensor = x if self.layer_norm is None else self.layer_norm(x)
        return decoded

    def attention_bias(self, length: int, positions: Tensor) -> DecoderBias:
        """The bias for ``length`` tokens, fp32; ``positions`` are :meth:`Encoder.positions`."""
        heads, scale = self.config.decoder_attention_heads, self.position_scale
        own = _norm32(self.pos_ln, self.embed_positions.weight[:length].float())
        absolute = position_logits(
            _linear32(self.self_pos_q_linear, own), _linear32(self.self_pos_k_linear, own), heads, scale
        )
        buckets = token_buckets(self.config.token_bucket_size, length).to(absolute.device)
        future = torch.full((length, length), float("-inf"), device=absolute.device).triu(1)
        biases = [
            (absolute + _looked_up(buckets, table) + future)[None] for table in self.token_rel_pos_table_list
        ]
        cross = position_logits(
            _linear32(self.cross_pos_q_linear, own),
            _linear32(self.cross_pos_k_linear, positions),
            heads,
            scale,
        )
        return DecoderBias(biases * len(self.layers) if self.config.share_attn_bias else biases, cross[None])


class OFA(nn.Module):
    """The network: encoder and decoder with a shared token embedding."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        shared = nn.Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.encoder = Encoder(config, shared)
        self.decoder = Decoder(config, shared)
        self.tie_embeddings()

    def cast(self, dtype: torch.dtype) -> None:
        """Convert to ``dtype``, except the position submodules, which stay in fp32."""
        for half in (self.encoder, self.decoder):
            for name, child in half.named_children():
                if name not in _FP32_CHILDREN:
                    child.to(dtype)

    def tie_embeddings(self) -> None:
        """Share the token embedding's tensor as the configuration requires."""
        self.decoder.embed_tokens.weight = self.encoder.embed_tokens.weight
        if self.config.share_decoder_input_output_embed:
            self.decoder.output_projection.weight = self.encoder.embed_tokens.weight


class _NoInit(TorchFunctionMode):
    """Skips random initialisation."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def blank(config: NetworkConfig) -> OFA:
    """The network on the meta device: without memory and without initial values.

    Initialisation there would make torch import its compiler, which takes a second.
    """
    with torch.device("meta"), _NoInit():
        return OFA(config)


def _mask_keys(bias: Tensor, padding: Tensor) -> Tensor:
    """Mask padded keys: (1, heads, queries, keys) and (batch, keys) → (batch, heads, queries, keys)."""
    return bias.masked_fill(padding[:, None, None, :], torch.finfo(bias.dtype).min)


def _looked_up(buckets: Tensor, table: nn.Module, out: Tensor | None = None) -> Tensor:
    """Look up a table of relative positions, fp32: (queries, keys) → (heads, queries, keys).

    By head, so that the result is contiguous as used, which halves the time at the large size.
    """
    if not isinstance(table, nn.Embedding):  # for the type checker: a ModuleList yields Modules
        raise TypeError(f"a table must be an Embedding, not {type(table).__name__}")
    by_head = table.weight.float().T.contiguous()
    return torch.index_select(by_head, 1, buckets.flatten(), out=out).view(-1, *buckets.shape)


def _linear32(layer: nn.Linear, x: Tensor) -> Tensor:
    """In fp32: position arithmetic is done once, and bf16 would lose three digits."""
    return functional.linear(x, layer.weight.float(), layer.bias.float())


def _norm32(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return functional.layer_norm(x, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
