"""Attention with an additive bias, and the transformer layers of OFA.

OFA (Wang et al. 2022, https://arxiv.org/abs/2202.03052) extends a pre-norm transformer by NormFormer's norms
and per-head scales (Shleifer et al. 2021, https://arxiv.org/abs/2110.09456). Attribute names equal the
checkpoint's keys.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa import onednn
from ofa.config import NetworkConfig

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}

#: The first appended component of a padded key, before scaling; within fp16's range.
_HIDDEN = -(2.0**14)


class Attention(nn.Module):
    """Multi-head attention with a logit bias and per-head scales ``c_attn``.

    Logits are scaled by (head width · attn_scale_factor)^-½. The factor is 2 in the released models, since
    content and position contribute one term each. :mod:`ofa.fold` moves ``c_attn`` into ``out_proj``
    and, in self-attention, the three projections into ``qkv``.
    """

    c_attn: nn.Parameter | None

    def __init__(self, width: int, heads: int, scale_factor: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width / heads * scale_factor) ** -0.5
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.c_attn = nn.Parameter(torch.ones(heads))
        self.qkv: nn.Linear | None = None

    def forward(self, queries: Tensor, context: Tensor, bias: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Attend from ``queries`` to ``context``.

        Args:
            queries: (batch, length, width).
            context: (batch, context, width); the queries themselves in self-attention.
            bias: added to the logits, broadcastable to (batch, heads, length, context).
            hidden: :func:`hidden_keys` of the context; None without padding.

        Returns:
            (batch, length, width)
        """
        if self.qkv is not None:
            projected = self.qkv(queries).chunk(3, dim=-1)
        else:
            projected = (self.q_proj(queries), self.k_proj(context), self.v_proj(context))
        q, k, v = (_split(x, self.heads) for x in projected)
        if hidden is not None:
            q = functional.pad(q, (0, hidden.shape[-1]), value=1.0)
            k = torch.cat([k, hidden.expand(-1, self.heads, -1, -1)], dim=-1)
        elif onednn.attends(q):
            return self._mix(onednn.attention(q, k, v, bias, self.scale))
        return self._mix(functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale))

    def absorbs(self, length: int) -> bool:
        """Whether :meth:`absorbed` is cheaper: if there are fewer queries than a head is wide."""
        return length * self.heads < self.out_proj.in_features

    def absorbed(self, queries: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        """Compute :meth:`forward` by projecting the queries instead of the context.

        q·(Wk s) = (q Wk)·s, and Σ p (Wv s + b) = Wv (Σ p s) + b. The key bias adds the same value to all
        logits of a query, so softmax cancels it.
        """
        batch, length, width = queries.shape
        q = _split(self.q_proj(queries), self.heads)  # (batch, heads, length, head width)
        by_head = (self.heads, width // self.heads, width)
        wide = (q @ self.k_proj.weight.view(by_head)).reshape(batch, 1, self.heads * length, width)
        keys = context[:, None]  # one wide head
        flat_bias = bias.expand(-1, self.heads, length, -1).reshape(bias.shape[0], 1, self.heads * length, -1)
        if onednn.attends(wide):
            mixed = onednn.attention(wide, keys, keys, flat_bias, self.scale)
        else:
            mixed = functional.scaled_dot_product_attention(
                wide, keys, keys, attn_mask=flat_bias, scale=self.scale
            )
        mixed = mixed.view(batch, self.heads, length, width)
        attended = mixed @ self.v_proj.weight.view(by_head).transpose(1, 2)
        return self._mix(attended + self.v_proj.bias.view(self.heads, 1, -1))

    def _mix(self, attended: Tensor) -> Tensor:
        """(batch, heads, length, head width) → (batch, length, width)"""
        if self.c_attn is not None:
            attended = attended * self.c_attn[:, None, None]
        mixed: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return mixed


class FeedForward(nn.Module):
    """Base of both layers: the feed-forward half, whose parts the checkpoint stores in the layer itself."""

    fc1: nn.Linear
    fc2: nn.Linear
    ffn_layer_norm: nn.LayerNorm | None

    def __init__(self, width: int, inner: int, config: NetworkConfig) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation_function]
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.ffn_layer_norm = nn.LayerNorm(inner) if config.normformer else None
        self.final_layer_norm = nn.LayerNorm(width)

    def feed_forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) → the same."""
        # Only for bf16, where the gain was measured.
        if self.activation is functional.gelu and x.dtype is torch.bfloat16 and onednn.fuses(x):
            inner = onednn.linear_gelu(x, self.fc1)
        else:
            inner = self.activation(self.fc1(x))
        inner = _norm(self.ffn_layer_norm, inner)
        outer: Tensor = self.fc2(inner)
        return outer


class EncoderLayer(FeedForward):
    """Self-attention and feed-forward, each with a residual connection."""

    def __init__(self, config: NetworkConfig) -> None:
        width = config.d_model
        super().__init__(width, config.encoder_ffn_dim, config)
        self.pre_norm = config.encoder_normalize_before
        self.self_attn = Attention(width, config.encoder_attention_heads, config.attn_scale_factor)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn_mid_layer_norm = nn.LayerNorm(width) if config.normformer else None

    def forward(self, x: Tensor, bias: Tensor, hidden: Tensor | None = None) -> Tensor:
        """``x``: (batch, length, width); ``bias`` and ``hidden`` as for :meth:`Attention.forward`."""
        normed = _norm(self.self_attn_layer_norm if self.pre_norm else None, x)
        x = x + _norm(self.self_attn_mid_layer_norm, self.self_attn(normed, normed, bias, hidden))
        x = _norm(None if self.pre_norm else self.self_attn_layer_norm, x)
        x = x + self.feed_forward(_norm(self.final_layer_norm if self.pre_norm else None, x))
        return _norm(None if self.pre_norm else self.final_layer_norm, x)


class DecoderLayer(FeedForward):
    """Causal self-attention, cross-attention to the encoder's states, feed-forward."""

    def __init__(self, config: NetworkConfig) -> None:
        width, heads, factor = config.d_model, config.decoder_attention_heads, config.attn_scale_factor
        super().__init__(width, config.decoder_ffn_dim, config)
        self.pre_norm = config.decoder_normalize_before
        self.self_attn = Attention(width, heads, factor)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn_mid_layer_norm = nn.LayerNorm(width) if config.normformer else None
        self.cross_attn = Attention(width, heads, factor)
        self.cross_attn_layer_norm = nn.LayerNorm(width)
        self.cross_attn_mid_layer_norm = nn.LayerNorm(width) if config.normformer else None

    def forward(self, x: Tensor, states: Tensor, self_bias: Tensor, cross_bias: Tensor) -> Tensor:
        """Decode one layer.

        Args:
            x: (batch, length, width).
            states: the encoder's, (batch, source, width).
            self_bias: broadcastable to (batch, heads, length, length), -inf above the diagonal.
            cross_bias: broadcastable to (batch, heads, length, source).
        """
        normed = _norm(self.self_attn_layer_norm if self.pre_norm else None, x)
        x = x + _norm(self.self_attn_mid_layer_norm, self.self_attn(normed, normed, self_bias))
        x = _norm(None if self.pre_norm else self.self_attn_layer_norm, x)
        normed = _norm(self.cross_attn_layer_norm if self.pre_norm else None, x)
        absorbs = self.cross_attn.absorbs(x.shape[1]) and not self.training
        cross_attn = self.cross_attn.absorbed if absorbs else self.cross_attn
        x = x + _norm(self.cross_attn_mid_layer_norm, cross_attn(normed, states, cross_bias))
        x = _norm(None if self.pre_norm else self.cross_attn_layer_norm, x)
        x = x + self.feed_forward(_norm(self.final_layer_norm if self.pre_norm else None, x))
        return _norm(None if self.pre_norm else self.final_layer_norm, x)


def hidden_keys(padding: Tensor, dtype: torch.dtype) -> Tensor:
    """Components to append to every key so that padded ones get no attention: (batch, keys) bool →
    (batch, 1, keys, 8).

    A query's own appended components are 1, so a padded key's logit falls by several hundred at least, while
    the bias stays shared by the batch: one for each text would be as large as all logits. Eight components,
    since GPU kernels need head widths that are multiples of eight.
    """
    return functional.pad((padding * _HIDDEN)[:, None, :, None], (0, 7)).to(dtype)


def position_logits(queries: Tensor, keys: Tensor, heads: int, scale: float) -> Tensor:
    """Scaled q·k of position embeddings: (length, width) × (context, width) → (heads, length, context)."""
    q, k = (_split(x[None], heads)[0] for x in (queries, keys))
    return (q * scale) @ k.transpose(-1, -2)


def _norm(norm: nn.Module | None, x: Tensor) -> Tensor:
    result: Tensor = x if norm is None else norm(x)
    return result


def _split(x: Tensor, heads: int) -> Tensor:
    """(batch, length, width) → (batch, heads, length, width/heads)."""
    return x.view(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)
