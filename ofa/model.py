"""Load a model folder and judge pairs with it: the class most callers need."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ofa import graphs
from ofa.bias import BiasCache
from ofa.checkpoint import load_weights
from ofa.config import NetworkConfig, TaskConfig, check_together, image_grid
from ofa.converted import Checksums, Conversion
from ofa.errors import UnsupportedConfig
from ofa.fold import fold
from ofa.image import to_pixels
from ofa.int8 import Int8State, int8_network
from ofa.memory import keep_freed_tensors
from ofa.network import OFA, EncoderOutput, blank
from ofa.padded import PaddedBatches
from ofa.pair import Pair
from ofa.scoring import AnswerScorer
from ofa.tokenizer import Tokenizer, build_source
from ofa.vision import CancelPoint

#: Bytes per channel of the pictures and texts that a CPU computes at once: four of each at the large size in
#: bf16. More do not fit the CPU caches (times in docs/performance.md).
_PICTURES = 2 << 20
_TEXTS = 8 << 10
#: Texts are decoded together if the longest is at most this many times as long as the shortest.
_MAX_PADDING = 1.5


class EntailmentModel:
    """The network with its tokenizer, its answers and a cache of its attention bias.

    Not thread-safe: one thread at a time may call :meth:`judge`.

    Attributes:
        conversion: its converted weights; None if they are not cached.
        mapped: whether the weights were loaded from there.
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
        self._alone = False  # one picture and one text at a time
        self._bias = BiasCache(network, image_grid(task.patch_image_size), self.scorer.forced)
        self._padded: PaddedBatches | None = None

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
            cache: folder of converted weights, which :meth:`keep` writes.

        Raises:
            UnsupportedConfig: a configuration value is not supported.
            CheckpointError: the weights are damaged or do not match the configuration.
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
        if graphs.ENABLED and model.device.type == "cuda":
            model.accelerate(graphs.CudaGraphs(model.device))
        return model

    def keep(self, cancel_point: CancelPoint | None = None, checksums: Checksums | None = None) -> None:
        """Write the converted weights for the next start, if worthwhile and not yet done.

        Another thread may judge meanwhile. ``checksums`` avoids hashing the source again.

        Raises:
            OSError: the disk is full or permission is denied.
        """
        if self.conversion is not None and not self.mapped and self.conversion.worthwhile:
            self.conversion.write(self.network, cancel_point, checksums)

    def accelerate(self, backend: graphs.Backend) -> None:
        """From now on compute texts of different length in padded batches and replay recorded computations.

        For a GPU; see :mod:`ofa.padded`. Models whose answers need several decoder passes are not affected.
        """
        self._padded = PaddedBatches(self.network, self._bias, self.scorer, self.tokenizer.pad, backend)

    def release_graphs(self) -> None:
        """Free the memory of recorded computations. Another thread may judge meanwhile."""
        if self._padded is not None:
            self._padded.graphs.release()

    def in_int8(self, state: Int8State) -> EntailmentModel:
        """The same model with int8 products. It shares the rest with this one, so that one thread at a time
        may judge with either."""
        model = copy.copy(self)
        model.network, model.conversion, model._alone = int8_network(self.network, state), None, True
        return model

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.network.encoder.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' number format."""
        return self.network.encoder.embed_tokens.weight.dtype

    @torch.inference_mode()
    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint | None = None) -> list[dict[str, float]]:
        """Probabilities of ``Yes``, ``No`` and ``Maybe`` for each pair, in order; each sums to 1.

        An image object that occurs in several pairs is processed once. The encoder batches texts of equal
        length, since the bias is too large to have one per pair; the decoder, which is bound by reading its
        weights, also batches texts of similar length.

        Args:
            cancel_point: called between layers; an exception from it stops the computation.

        Raises:
            TextError: an unsupported or missing premise, or lone surrogates; raised before any computation.
        """
        sources = [build_source(self.tokenizer, self.task, pair.hypothesis, pair.premise) for pair in pairs]
        features = self._see([pair.image for pair in pairs], cancel_point)
        results: list[dict[str, float]] = [{} for _ in pairs]
        for together in self._decoded_together(sources):
            seen = [features[id(pairs[index].image)] for index in together]
            scored = self._score([sources[index] for index in together], seen, cancel_point)
            for index, probabilities in zip(together, scored, strict=True):
                results[index] = dict(zip(self.task.labels, probabilities, strict=True))
        return results

    @property
    def _accelerated(self) -> PaddedBatches | None:
        return self._padded if self.scorer.single_pass else None

    def _decoded_together(self, sources: Sequence[list[int]]) -> Iterator[list[int]]:
        """Group the texts by decoder batch, by index. Texts of different length are padded to one length
        within :data:`_MAX_PADDING` if scoring takes a single pass and all are short enough for
        :meth:`Attention.absorbed`."""
        absorbs, padded = self.network.decoder.absorbs, self._accelerated
        together: list[int] = []
        for index in sorted(range(len(sources)), key=lambda index: len(sources[index])):
            length, shortest = len(sources[index]), len(sources[together[0]]) if together else 0
            if padded is not None:
                mixes = padded.mixes(shortest, length)
            else:
                mixes = self.scorer.single_pass and absorbs(length) and length <= _MAX_PADDING * shortest
            if together and length != shortest and not mixes:
                yield together
                together = []
            together.append(index)
        yield together

    def _see(self, images: Sequence[Image.Image], cancel_point: CancelPoint | None) -> dict[int, Tensor]:
        """Features (grid², 1024) of each distinct picture object, by its id."""
        distinct = {id(image): image for image in images}
        side = self.task.patch_image_size
        pixels = torch.stack(
            [to_pixels(image, side, self.task.mean, self.task.std) for image in distinct.values()]
        ).to(self.device, self.dtype)
        size = self._at_once(side * side, _PICTURES)
        parts = (pixels[first : first + size] for first in range(0, len(pixels), size))
        see = self.network.encoder.see if self._padded is None else self._padded.see
        features = torch.cat([see(part, cancel_point) for part in parts])
        return dict(zip(distinct, features, strict=True))

    def _at_once(self, size: int, most: int) -> int:
        """Number of items of ``size`` numbers per channel to compute at once: on a CPU ``most`` bytes."""
        if self._alone:
            return 1
        return max(1, most // (size * self.dtype.itemsize)) if self.device.type == "cpu" else 1 << 30

    def _score(
        self, sources: Sequence[list[int]], features: Sequence[Tensor], cancel_point: CancelPoint | None
    ) -> list[list[float]]:
        """Probabilities in the order of the answers, for one decoder batch."""
        prompts = [
            source[:-1] if self.task.prompt_type == "prev_output" else source[:1] for source in sources
        ]
        if (padded := self._accelerated) is not None:
            return _probabilities(padded.log_scores(sources, prompts, features, cancel_point))
        states = self._encode(sources, features, cancel_point)
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        filled = [[*prompt, *[self.tokenizer.pad] * (longest - len(prompt))] for prompt in prompts]
        scores = self.scorer.log_scores(
            self.network.decoder,
            states,
            torch.tensor(filled, device=self.device),
            self._bias.of(max(map(len, sources))).decoder,
            cancel_point,
            lengths=None if min(lengths) == longest else torch.tensor(lengths, device=self.device),
        )
        return _probabilities(scores)

    def _encode(
        self, sources: Sequence[list[int]], features: Sequence[Tensor], cancel_point: CancelPoint | None
    ) -> EncoderOutput:
        """The encoder's states of all texts, padded at the end to the longest."""
        by_length: dict[int, list[int]] = {}
        for index, source in enumerate(sources):
            by_length.setdefault(len(source), []).append(index)
        parts: list[tuple[list[int], int, Tensor]] = []
        # The longest last, since the decoder then needs its bias.
        for length, alike in sorted(by_length.items()):
            bias, end = self._bias.of(length), features[0].shape[0] + length
            size = self._at_once(end + bias.padding, _TEXTS)
            for group in (alike[first : first + size] for first in range(0, len(alike), size)):
                tokens = torch.tensor([sources[index] for index in group], device=self.device)
                padded = functional.pad(tokens, (0, bias.padding), value=self.tokenizer.pad)
                seen = torch.stack([features[index] for index in group])
                states = self.network.encoder(padded, seen, bias=bias.encoder, cancel_point=cancel_point)
                parts.append((group, end, states.states))
        last = parts[-1][2]
        if len(by_length) == 1:
            return EncoderOutput(last if len(parts) == 1 else torch.cat([p for *_, p in parts]), None, None)
        states = last.new_zeros(len(sources), *last.shape[1:])
        padding = torch.ones(states.shape[:2], dtype=torch.bool, device=self.device)
        for group, end, part in parts:
            states[group, :end] = part[:, :end]
            padding[group, :end] = False
        return EncoderOutput(states, None, padding)


def _probabilities(log_scores: Tensor) -> list[list[float]]:
    probabilities: list[list[float]] = torch.softmax(log_scores.double(), dim=-1).tolist()
    return probabilities
