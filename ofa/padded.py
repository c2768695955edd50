"""Batches for a GPU: texts of different length in one encoder and one decoder call.

Image tokens are most of a sequence (900 at the large size), so padding texts to one length costs little. The
batch shares the attention bias; padded keys are hidden by :func:`ofa.layers.hidden_keys`. Lengths are data,
not shapes, so that :mod:`ofa.graphs` can replay one recording for all texts of a block of 32 tokens.

A CPU gains nothing from it: it computes few texts at once (see ofa.model).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ofa.bias import Bias, BiasCache
from ofa.graphs import Backend, Graphs
from ofa.network import OFA
from ofa.scoring import AnswerScorer, last_states
from ofa.vision import CancelPoint


class PaddedBatches:
    """Computes scores for one network whose answers need a single decoder pass. Not thread-safe.

    Args:
        pad: id of the padding token.

    Attributes:
        graphs: the recorded computations.
    """

    def __init__(
        self, network: OFA, bias: BiasCache, scorer: AnswerScorer, pad: int, backend: Backend
    ) -> None:
        self._network = network
        self._bias = bias
        self._scorer = scorer
        self._pad = pad
        self.graphs = Graphs(backend)

    def mixes(self, shortest: int, length: int) -> bool:
        """Whether texts of these lengths share a batch: in one block, or if cross-attention of the longer
        one is cheap (:meth:`Attention.absorbs`)."""
        block = self._bias.block_of(length)
        return self._network.decoder.absorbs(block) or block == self._bias.block_of(shortest)

    def see(self, pixels: Tensor, cancel_point: CancelPoint | None = None) -> Tensor:
        """As :meth:`Encoder.see`."""
        return self.graphs.run("see", self._network.encoder.see, [pixels], cancel_point)

    def log_scores(
        self,
        sources: Sequence[list[int]],
        prompts: Sequence[list[int]],
        features: Sequence[Tensor],
        cancel_point: CancelPoint | None = None,
    ) -> Tensor:
        """As :meth:`AnswerScorer.log_scores`, for texts of different length.

        Args:
            features: (grid², 1024) each.
        """
        length = self._bias.block_of(max(map(len, sources)))
        bias = self._bias.of(length)
        filled = 1 if max(map(len, prompts)) == 1 else length
        inputs = [
            self._filled(sources, length),
            self._lengths(sources),
            self._filled(prompts, filled),
            self._lengths(prompts),
            torch.stack(list(features)),
        ]
        compute = partial(self._last_states, bias)
        # The count, since another bias is other memory.
        last = self.graphs.run(("decode", self._bias.computed), compute, inputs, cancel_point)
        return self._scorer.scores_after(self._network.decoder, last)

    def _last_states(
        self,
        bias: Bias,
        source: Tensor,
        lengths: Tensor,
        prompt: Tensor,
        prompt_lengths: Tensor,
        features: Tensor,
        cancel_point: CancelPoint | None,
    ) -> Tensor:
        """The decoder's state of each prompt's last token, (batch, width)."""
        padding = torch.arange(source.shape[1], device=source.device) >= lengths[:, None]
        encoded = self._network.encoder(source, features, padding, bias.encoder, cancel_point)
        states = self._network.decoder(prompt, encoded, bias.decoder, cancel_point)
        # An unused row of a recorded batch has length 0.
        return last_states(states, prompt_lengths.clamp(min=1))

    def _filled(self, texts: Sequence[list[int]], length: int) -> Tensor:
        rows = [[*text, *[self._pad] * (length - len(text))] for text in texts]
        return torch.tensor(rows, device=self._device)

    def _lengths(self, texts: Sequence[list[int]]) -> Tensor:
        return torch.tensor([len(text) for text in texts], device=self._device)

    @property
    def _device(self) -> torch.device:
        return self._network.encoder.embed_tokens.weight.device
