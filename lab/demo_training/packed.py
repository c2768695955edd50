"""The forward pass for training: many sentences per picture, with the picture encoded once.

The states equal those of `ofa.network`, because the demo model's image tokens do not attend to the text.
`blind_pictures` puts that into the weights (a bias of about -65 from every image token to every text token),
so that any implementation of OFA computes the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ofa.layers import Attention
from ofa.network import OFA

_STRENGTH = 25.0
GRID = 8


@torch.no_grad()
def blind_pictures(network: OFA) -> None:
    """Reserve two channels of the position norms and one dimension of every head to mark image queries and
    text keys. Call it after every optimiser step to restore the reserved weights."""
    encoder = network.encoder
    for norm, channel in ((encoder.image_pos_ln, 0), (encoder.pos_ln, 1)):
        norm.weight[:2] = 0
        norm.bias[:2] = 0
        norm.bias[channel] = 1
    heads = network.config.encoder_attention_heads
    rows = torch.arange(heads) * (network.config.d_model // heads)
    for linear, channel, value in (
        (encoder.pos_q_linear, 0, _STRENGTH),
        (encoder.pos_k_linear, 1, -_STRENGTH),
    ):
        linear.weight[rows] = 0
        linear.weight[rows, channel] = value
        linear.bias[rows] = 0


def _heads(x: Tensor, heads: int) -> Tensor:
    """(..., length, width) to (..., heads, length, head width)."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def _attend(
    layer: Attention, queries: Tensor, own: Tensor, own_bias: Tensor, image: Tensor, image_bias: Tensor
) -> Tensor:
    """Attention of each sentence to its picture's tokens and to its own.

    Args:
        queries: (pictures, sentences, length, width); own: the same with its own length.
        own_bias: broadcastable to (pictures, sentences, heads, length, own length), padding masked.
        image: (pictures, grid², width); image_bias: (heads, length, grid²).
    """
    _, sentences, length, _ = queries.shape
    q = _heads(layer.q_proj(queries) * layer.scale, layer.heads)  # (P, S, H, L, D)
    k, v = _heads(layer.k_proj(own), layer.heads), _heads(layer.v_proj(own), layer.heads)
    image_k, image_v = (
        _heads(layer.k_proj(image), layer.heads),
        _heads(layer.v_proj(image), layer.heads),
    )  # (P, H, G, D)
    folded = q.transpose(1, 2).flatten(2, 3)  # (P, H, S·L, D)
    to_image = torch.matmul(folded, image_k.transpose(-1, -2)).unflatten(
        2, (sentences, length)
    )  # (P, H, S, L, G)
    to_image = to_image.transpose(1, 2) + image_bias
    to_own = torch.matmul(q, k.transpose(-1, -2)) + own_bias
    weights = torch.softmax(torch.cat([to_image, to_own], dim=-1), dim=-1)
    tokens = image.shape[1]
    from_image = weights[..., :tokens].transpose(1, 2).flatten(2, 3).to(image_v.dtype)  # (P, H, S·L, G)
    mixed = torch.matmul(from_image, image_v).unflatten(2, (sentences, length)).transpose(1, 2)
    mixed = mixed + torch.matmul(weights[..., tokens:].to(v.dtype), v)
    mixed = mixed * layer.c_attn[:, None, None]
    out: Tensor = layer.out_proj(mixed.transpose(2, 3).flatten(3))
    return out


def _norm(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def seen_by_layer(network: OFA, projected: Tensor) -> list[Tensor]:
    """Return the picture's keys and values per encoder layer, and the encoder's output."""
    encoder, tokens = network.encoder, projected.shape[1]
    image = projected + encoder.embed_image_positions.weight[1:] + encoder.type_embedding.weight[1]
    image = _norm(encoder.patch_layernorm_embedding, image)
    seen = []
    for layer, bias in zip(encoder.layers, encoder.attention_bias(GRID, 1), strict=True):
        normed = layer.self_attn_layer_norm(image)
        seen.append(normed)
        own = layer.self_attn(normed, normed, bias[..., :tokens, :tokens])
        image = image + layer.self_attn_mid_layer_norm(own)
        image = image + layer.feed_forward(layer.final_layer_norm(image))
    return [*seen, encoder.layer_norm(image)]


def answer_states(
    network: OFA, projected: Tensor, tokens: Tensor, lengths: Tensor, groups: int = 2
) -> Tensor:
    """Return the decoder states that the answers are read from.

    Each picture's sentences are sorted by length and run in groups, each padded to its longest, since half of
    a whole batch would be padding.

    Args:
        projected: output of image_proj, (pictures, grid², width).
        tokens: (pictures, sentences, length), with start and end tokens, right-padded.
        lengths: (pictures, sentences), including start and end tokens.

    Returns:
        (pictures, sentences, width)
    """
    seen = seen_by_layer(network, projected)
    order = lengths.argsort(1)
    states = []
    for part in order.chunk(groups, dim=1):
        chosen = lengths.gather(1, part)
        rows = tokens.gather(1, part[..., None].expand(-1, -1, tokens.shape[2]))
        states.append(_group_states(network, seen, rows[..., : int(chosen.max())], chosen))
    back = order.argsort(1)[..., None]
    joined = torch.cat(states, dim=1)
    return joined.gather(1, back.expand(-1, -1, joined.shape[2]))


def _group_states(network: OFA, seen: list[Tensor], tokens: Tensor, lengths: Tensor) -> Tensor:
    """Return `answer_states` for sentences of similar lengths."""
    encoder, length, image_tokens = network.encoder, tokens.shape[2], seen[0].shape[1]
    embedded = encoder.embed_tokens(tokens)
    text = embedded + encoder.embed_positions.weight[:length] + encoder.type_embedding.weight[0]
    text = _norm(encoder.layernorm_embedding, text)
    padding = torch.arange(length) >= lengths[..., None]  # (P, S, L)
    mask = torch.zeros(padding.shape).masked_fill(padding, -1e4)[:, :, None, None, :]
    text = text.masked_fill(padding[..., None], 0.0)
    for layer, bias, image in zip(
        encoder.layers, encoder.attention_bias(GRID, length), seen[:-1], strict=True
    ):
        normed = layer.self_attn_layer_norm(text)
        own_bias = bias[0, :, image_tokens:, image_tokens:] + mask
        image_bias = bias[0, :, image_tokens:, :image_tokens]
        read = _attend(layer.self_attn, normed, normed, own_bias, image, image_bias)
        text = text + layer.self_attn_mid_layer_norm(read)
        text = text + layer.feed_forward(layer.final_layer_norm(text))
    return _decode(network, seen[-1], encoder.layer_norm(text), mask, embedded, lengths)


def _decode(
    network: OFA, image: Tensor, text: Tensor, mask: Tensor, embedded: Tensor, lengths: Tensor
) -> Tensor:
    """Run the decoder over the source without its end token; only the last position is used."""
    encoder, decoder, length = network.encoder, network.decoder, embedded.shape[2]
    image_tokens = image.shape[1]
    positions = encoder.positions(GRID, length)
    bias = decoder.attention_bias(length, positions)
    self_biases, cross = bias.own, bias.cross
    last = (lengths - 2)[..., None]  # (P, S, 1)
    x = embedded + decoder.embed_positions.weight[:length]
    x = _norm(decoder.layernorm_embedding, x)
    final = len(decoder.layers) - 1
    for index, (layer, bias) in enumerate(zip(decoder.layers, self_biases, strict=True)):
        normed = layer.self_attn_layer_norm(x)
        cross_text, cross_image = cross[0, :, :, image_tokens:] + mask, cross[0, :, :, :image_tokens]
        own, image_bias = bias[0], cross_image
        queries = normed
        if index == final:  # one query is enough
            pick = last[..., None].expand(-1, -1, -1, x.shape[-1])
            queries, x = normed.gather(2, pick), x.gather(2, pick)
            own = bias[0][:, last[..., 0]].permute(1, 2, 0, 3)[:, :, :, None]  # (P, S, H, 1, L)
            image_bias = cross_image[:, last[..., 0]].permute(1, 2, 0, 3)[:, :, :, None]
            cross_text = cross[0, :, last[..., 0], image_tokens:].permute(1, 2, 0, 3)[:, :, :, None] + mask
        read = _own_attention(layer.self_attn, queries, normed, own)
        x = x + layer.self_attn_mid_layer_norm(read)
        seen = _attend(layer.cross_attn, layer.cross_attn_layer_norm(x), text, cross_text, image, image_bias)
        x = x + layer.cross_attn_mid_layer_norm(seen)
        x = x + layer.feed_forward(layer.final_layer_norm(x))
    state: Tensor = decoder.layer_norm(x)[:, :, 0]
    return state


def _own_attention(layer: Attention, queries: Tensor, own: Tensor, bias: Tensor) -> Tensor:
    """Plain attention inside each sentence: (P, S, L, width)."""
    q = _heads(layer.q_proj(queries) * layer.scale, layer.heads)
    k, v = _heads(layer.k_proj(own), layer.heads), _heads(layer.v_proj(own), layer.heads)
    weights = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) + bias, dim=-1).to(v.dtype)
    mixed = torch.matmul(weights, v) * layer.c_attn[:, None, None]
    out: Tensor = layer.out_proj(mixed.transpose(2, 3).flatten(3))
    return out
