"""A cache of the attention bias, which depends on positions only, not on content.

The bias for a text is a leading slice of the bias for a longer text, so the longest needed so far is kept
(330 MB in bf16 at the large size) and requests use views of it. On a CPU, attention is faster if the number
of keys is a multiple of 32; long sequences are therefore padded, and the bias of the padded keys is set to
the lowest finite value, in place, until a request of another length comes.

Softmax is unchanged by a constant added to all logits of a query. In reduced precision the largest bias of
each query is therefore subtracted before rounding: the keys with the most weight are then rounded least.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ofa.config import MAX_BUCKET_POSITIONS
from ofa.network import OFA, DecoderBias, LayerBias

#: When the bias is computed, its rows are lengthened to a multiple of this many keys: to compute it rarely,
#: and because GPU kernels copy a bias whose rows do not begin at a multiple of 16 bytes.
_STEP = 32
#: Sequences are padded to a multiple of this many tokens,
_BLOCK = 32
#: unless that lengthens them by more than this fraction.
_WASTE = 1 / 16


@dataclass(frozen=True, slots=True)
class Bias:
    """Views for one request's length, valid until the next request.

    Attributes:
        padding: tokens to append to the text.
        encoder: one per layer, (1, heads, source, source), the appended tokens' keys masked.
        decoder: for the prompt and the forced tokens after it, the same keys masked.
    """

    padding: int
    encoder: LayerBias
    decoder: DecoderBias


class BiasCache:
    """The cache of one network on one device. Not thread-safe.

    Args:
        grid: the image has grid² tokens.
        forced: maximum number of tokens the decoder reads after the prompt.

    Attributes:
        computed: how often the bias was computed; each time replaces the tensors of all earlier views.
    """

    def __init__(self, network: OFA, grid: int, forced: int) -> None:
        self._network = network
        self._grid = grid
        self._forced = forced
        self._longest = min(network.config.max_position_embeddings + 2, MAX_BUCKET_POSITIONS)
        self._length = 0  # text length of the cached bias
        self.computed = 0
        self._encoder: LayerBias = []
        self._decoder = DecoderBias([], torch.empty(0))
        self._hidden = (0, 0)
        self._beneath: list[Tensor] = []  # original values of the hidden columns

    def of(self, length: int) -> Bias:
        """The bias for a text of ``length`` tokens, including start and end tokens."""
        image = self._grid**2
        padding = -(image + length) % _BLOCK
        if padding > (image + length) * _WASTE or length + padding > self._longest:
            padding = 0
        device = self._network.encoder.embed_tokens.weight.device
        if length + padding > self._length or self._encoder[0].device != device:
            self._compute(length + padding)
        end = image + length + padding
        self._hide(image + length, end)
        return Bias(
            padding,
            [one[..., :end, :end] for one in self._encoder],
            DecoderBias(self._decoder.own, self._decoder.cross[..., :end]),
        )

    def _compute(self, length: int) -> None:
        self._encoder, self._beneath, self._hidden = [], [], (0, 0)  # freed before allocating longer ones
        length = max(length, min(length + -(self._grid**2 + length) % _STEP, self._longest))
        encoder, decoder = self._network.encoder, self._network.decoder
        dtype = encoder.embed_tokens.weight.dtype
        self._encoder = self._encoder_bias(length, dtype)
        prompt = min(length + self._forced, self._longest)
        positions = encoder.positions(self._grid, length)
        self._decoder = decoder.attention_bias(prompt, positions).cut(prompt, dtype)
        self._length = length
        self.computed += 1

    def block_of(self, length: int) -> int:
        """The text length that ends the block of 32 tokens in which a text of ``length`` tokens ends, at
        most the longest: :meth:`of` pads and masks nothing there."""
        return min(length + -(self._grid**2 + length) % _BLOCK, self._longest)

    def _encoder_bias(self, length: int, dtype: torch.dtype) -> LayerBias:
        """:meth:`Encoder.attention_bias` in ``dtype``, computed layer by layer in one buffer.

        In reduced precision, less the largest value of each query.
        """
        encoder, image = self._network.encoder, self._grid**2
        absolute = encoder.absolute_bias(self._grid, length)
        buffer, scratch = torch.empty_like(absolute), absolute.new_empty(len(absolute), image * image)
        biases = []
        for near, text in encoder.relative_bias(self._grid, length, scratch):
            buffer.copy_(absolute)
            buffer[:, :image, :image] += near
            buffer[:, image:, image:] += text
            if dtype is not torch.float32:
                buffer -= buffer.amax(-1, keepdim=True)
            biases.append(buffer[None].to(dtype, copy=True))
        return biases * len(encoder.layers) if encoder.config.share_attn_bias else biases

    def _hide(self, start: int, end: int) -> None:
        """Mask exactly the keys from ``start`` to ``end``."""
        if self._hidden == (start, end):
            return
        tensors = [*{id(one): one for one in self._encoder}.values(), self._decoder.cross]
        old = slice(*self._hidden)
        for tensor, beneath in zip(tensors, self._beneath, strict=False):
            tensor[..., old] = beneath
        self._beneath = [tensor[..., start:end].clone() for tensor in tensors]
        for tensor in tensors:
            tensor[..., start:end] = torch.finfo(tensor.dtype).min
        self._hidden = (start, end)
