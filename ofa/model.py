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
from ofa.converted import Conversion
from ofa.errors import UnsupportedConfig
from ofa.fold import fold
from ofa.image import to_pixels
from ofa.memory import keep_freed_tensors
from ofa.network import OFA, blank
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

    Attributes:
        conversion: where its converted weights are kept, or may be; None when they shall not.
        mapped: whether the weights came from there.
    """

    def __init__(
        self, network: OFA, tokenizer: Tokenizer, task: TaskConfig, conversion: Conversion | None = None
    ) -> None:
        self.network = network
        self.conversion = conversion
        self.tokenizer = tokenizer
        self.task = task
        answers = [tokenizer.encode(" " + answer)[: task.max_src_length] for answer in task.answers]
        self.scorer = AnswerScorer(answers, tokenizer.eos)
        self.mapped = False
        self._bias = BiasCache(network, image_grid(task.patch_image_size), self.scorer.forced)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        cache: Path | None = None,
    ) -> EntailmentModel:
        """Load a ModelScope model folder.

        Args:
            cache: where converted weights are looked for; :meth:`keep` puts them there.

        Raises:
            UnsupportedConfig: a configuration that cannot be honoured.
            CheckpointError: weights that are damaged or do not fit.
        """
        if device == "cpu":
            keep_freed_tensors()
        folder = Path(folder)
        config, task = NetworkConfig.from_folder(folder), TaskConfig.from_folder(folder)
        tokenizer = Tokenizer.from_folder(folder)
        if config.pad_token_id != tokenizer.pad:
            raise UnsupportedConfig(
                "config.json: pad_token_id", config.pad_token_id, f"vocab.json's {tokenizer.pad}"
            )
        longest = max(len(tokenizer.encode(" " + answer)) for answer in task.answers)
        check_together(config, task, tokenizer.base_size, tokenizer.added, longest)
        conversion = None if cache is None else Conversion(folder, cache, dtype)
        network = conversion.read(config) if conversion is not None else None
        mapped = network is not None
        if network is None:
            network = blank(config)
            load_weights(network, folder)
            fold(network)
            network.cast(dtype)
        model = cls(network.to(device).eval(), tokenizer, task, conversion)
        model.mapped = mapped
        return model

    def keep(self, cancel_point: CancelPoint | None = None) -> None:
        """Write the converted weights for the next start, where that is worth it and not done already.

        Another thread may judge meanwhile.

        Raises:
            OSError: no room, no right.
        """
        if self.conversion is not None and not self.mapped and self.conversion.worthwhile:
            self.conversion.write(self.network, cancel_point)

    def verify(self, cancel_point: CancelPoint | None = None) -> bool:
        """Hash what :meth:`load` believed by size and time. False: load again. Another thread may judge."""
        return self.conversion is None or not self.mapped or self.conversion.verify(cancel_point)

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
