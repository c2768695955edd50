"""The probabilities of the allowed answers: ModelScope's ``traverse`` scoring.

The logits are masked to the allowed continuations, log-softmaxed, summed over each answer's tokens and
softmaxed over the answers (``OfaForAllTasks._traverse_inference``). If the answers differ in their first
token, all later terms are log 1: one decoder pass over the prompt and one vocabulary row per answer give the
same result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ofa.network import Decoder, DecoderBias, EncoderOutput
from ofa.vision import CancelPoint


class AnswerScorer:
    """Scores a fixed set of answers after a prompt.

    Args:
        answers: token ids of each answer, without start and end tokens.
        eos: id of the end token, which ends every answer.

    Attributes:
        single_pass: whether one decoder pass over the prompt suffices.
    """

    def __init__(self, answers: Sequence[Sequence[int]], eos: int) -> None:
        self.answers = [[*answer, eos] for answer in answers]
        firsts = [answer[0] for answer in self.answers]
        self.single_pass = len(set(firsts)) == len(firsts)

    @property
    def forced(self) -> int:
        """Maximum number of tokens the decoder reads after the prompt."""
        return 0 if self.single_pass else max(len(answer) for answer in self.answers) - 1

    def log_scores(
        self,
        decoder: Decoder,
        source: EncoderOutput,
        prompt: Tensor,
        bias: DecoderBias | None = None,
        cancel_point: CancelPoint | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Unnormalised log-probability of each answer: (batch, answers), fp32.

        Args:
            prompt: (batch, length).
            bias: the decoder's, for the prompt and :attr:`forced` more tokens; computed there if None.
            lengths: (batch,), the prompts' lengths without padding, if :attr:`single_pass`; None without
                padding.
        """
        if self.single_pass:
            states = decoder(prompt, source, bias, cancel_point)
            return self.scores_after(decoder, last_states(states, lengths))
        scores = [
            self._traverse(decoder, source, prompt, answer, bias, cancel_point) for answer in self.answers
        ]
        return torch.stack(scores, dim=-1)

    def scores_after(self, decoder: Decoder, last: Tensor) -> Tensor:
        """As :meth:`log_scores`, from the states of each prompt's last token, if :attr:`single_pass`:
        (batch, width) → (batch, answers), fp32."""
        return torch.log_softmax(_logits(decoder, last, [answer[0] for answer in self.answers]), dim=-1)

    def _traverse(
        self,
        decoder: Decoder,
        source: EncoderOutput,
        prompt: Tensor,
        answer: list[int],
        bias: DecoderBias | None,
        cancel_point: CancelPoint | None,
    ) -> Tensor:
        """Sum of the log-probabilities of one answer's tokens, each among its allowed siblings: (batch,)."""
        forced = torch.tensor(answer[:-1], device=prompt.device).expand(prompt.shape[0], -1)
        states = decoder(torch.cat([prompt, forced], dim=1), source, bias, cancel_point)
        total = torch.zeros(prompt.shape[0], device=prompt.device)
        for step, token in enumerate(answer):
            allowed = self._allowed(answer[:step])
            if len(allowed) > 1:
                logits = _logits(decoder, states[:, prompt.shape[1] - 1 + step], allowed)
                total = total + torch.log_softmax(logits, dim=-1)[:, allowed.index(token)]
        return total

    def _allowed(self, prefix: list[int]) -> list[int]:
        """Distinct tokens that may follow ``prefix`` in an answer."""
        following = [
            answer[len(prefix)]
            for answer in self.answers
            if len(answer) > len(prefix) and answer[: len(prefix)] == prefix
        ]
        return sorted(set(following))


def last_states(states: Tensor, lengths: Tensor | None) -> Tensor:
    """The state of each prompt's last token: (batch, length, width) → (batch, width)."""
    if lengths is None:
        return states[:, -1]
    return states.take_along_dim((lengths - 1)[:, None, None], dim=1)[:, 0]


def _logits(decoder: Decoder, states: Tensor, tokens: list[int]) -> Tensor:
    """Logits of some vocabulary rows, fp32: (batch, width) → (batch, tokens)."""
    rows = decoder.output_projection.weight[tokens]
    return states.float() @ rows.float().T
