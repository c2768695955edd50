"""A model folder made ready to judge: the one class most callers need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ofa.bias import BiasCache
from ofa.checkpoint import load_weights
from ofa.config import NetworkConfig, TaskConfig, check_together, image_grid
from ofa.errors import UnsupportedConfig
from ofa.fold import fold
from ofa.image import to_pixels
from ofa.network import OFA
from ofa.scoring import AnswerScorer
from ofa.tokenizer import Tokenizer, build_source
from ofa.vision import CancelPoint


@dataclass(frozen=True, slots=True)
class Pair:
    """One question: does the picture show what the hypothesis says (given the premise)?"""

    image: Image.Image
    hypothesis: str
    premise: str | None = None


class EntailmentModel:
    """The network with its tokenizer, its answers and a cache of its attention bias.

    Not thread-safe: one thread calls :meth:`judge` at a time.
    """

    def __init__(self, network: OFA, tokenizer: Tokenizer, task: TaskConfig) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.task = task
        answers = [tokenizer.encode(" " + answer)[: task.max_src_length] for answer in task.answers]
        self.scorer = AnswerScorer(answers, tokenizer.eos)
        self._bias = BiasCache(network, image_grid(task.patch_image_size), self.scorer.forced)

    @classmethod
    def load(
        cls, folder: Path | str, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> EntailmentModel:
        """Load a ModelScope model folder.

        Raises:
            UnsupportedConfig: a configuration that cannot be honoured.
            CheckpointError: weights that are damaged or do not fit.
        """
        folder = Path(folder)
        config, task = NetworkConfig.from_folder(folder), TaskConfig.from_folder(folder)
        tokenizer = Tokenizer.from_folder(folder)
        if config.pad_token_id != tokenizer.pad:
            raise UnsupportedConfig(
                "config.json: pad_token_id", config.pad_token_id, f"vocab.json's {tokenizer.pad}"
            )
        longest = max(len(tokenizer.encode(" " + answer)) for answer in task.answers)
        check_together(config, task, tokenizer.base_size, tokenizer.added, longest)
        with torch.device("meta"):  # no time and memory for random weights that are replaced at once
            network = OFA(config)
        load_weights(network, folder)
        fold(network)
        network.cast(dtype)
        return cls(network.to(device).eval(), tokenizer, task)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.encoder.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' number format."""
        return self.network.encoder.embed_tokens.weight.dtype

    @torch.inference_mode()
    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint | None = None) -> list[dict[str, float]]:
        """Probabilities of ``Yes``, ``No`` and ``Maybe`` for each pair, in order; each sums to 1.

        Pairs with prompts of equal length are computed together, and a picture object that occurs in
        several pairs is seen once.

        Args:
            cancel_point: called between layers; whatever it raises ends the computation there.

        Raises:
            TextError: a premise the model's prompt cannot take, or lone surrogates. Nothing is computed then.
        """
        sources = [build_source(self.tokenizer, self.task, pair.hypothesis, pair.premise) for pair in pairs]
        features = self._see([pair.image for pair in pairs], cancel_point)
        by_length: dict[int, list[int]] = {}
        for index, source in enumerate(sources):
            by_length.setdefault(len(source), []).append(index)
        results: list[dict[str, float]] = [{} for _ in pairs]
        for group in by_length.values():
            tokens = torch.tensor([sources[index] for index in group], device=self.device)
            seen = torch.stack([features[id(pairs[index].image)] for index in group])
            for index, probabilities in zip(group, self._score(tokens, seen, cancel_point), strict=True):
                results[index] = dict(zip(self.task.labels, probabilities, strict=True))
        return results

    def _see(self, images: Sequence[Image.Image], cancel_point: CancelPoint | None) -> dict[int, Tensor]:
        """Features (grid², 1024) of each distinct picture object, by its id."""
        distinct = {id(image): image for image in images}
        pixels = torch.stack(
            [
                to_pixels(image, self.task.patch_image_size, self.task.mean, self.task.std)
                for image in distinct.values()
            ]
        )
        features = self.network.encoder.see(pixels.to(self.device, self.dtype), cancel_point)
        return dict(zip(distinct, features, strict=True))

    def _score(self, tokens: Tensor, features: Tensor, cancel_point: CancelPoint | None) -> list[list[float]]:
        """Probabilities in the order of the answers, for a group of equal length."""
        encoder, decoder = self.network.encoder, self.network.decoder
        bias = self._bias.of(tokens.shape[1])
        padded = functional.pad(tokens, (0, bias.padding), value=self.tokenizer.pad)
        source = encoder(padded, features, bias=bias.encoder, cancel_point=cancel_point)
        prompt = tokens[:, :-1] if self.task.prompt_type == "prev_output" else tokens[:, :1]
        scores = self.scorer.log_scores(decoder, source, prompt, bias.decoder, cancel_point)
        probabilities: list[list[float]] = torch.softmax(scores.double(), dim=-1).tolist()
        return probabilities
