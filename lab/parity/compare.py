"""Run the same pictures and texts through ModelScope's pipeline and through ofa/, for one folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.parity.pairs import TextPair
from lab.reference.process import ReferenceFailed, ReferenceProcess
from ofa.checkpoint import is_ignored
from ofa.config import NetworkConfig
from ofa.image import open_picture
from ofa.model import EntailmentModel
from ofa.network import OFA
from ofa.pair import Pair
from ofa.tokenizer import build_source

#: Largest allowed difference of any probability, fp32 on CPU.
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class PairResult:
    """One pair on both sides; probabilities by label, in the order of the answers.

    Attributes:
        reference: ModelScope's.
        ours: ofa's, judged alone.
        batched: ofa's, judged in one batch with all pairs of the folder.
        tokens: ModelScope's source ids.
        our_tokens: ofa's source ids.
    """

    pair: TextPair
    reference: Mapping[str, float]
    ours: Mapping[str, float]
    batched: Mapping[str, float]
    tokens: Sequence[int]
    our_tokens: Sequence[int]

    @property
    def delta(self) -> float:
        """Largest difference of a probability when judged alone."""
        return max(abs(self.reference[label] - self.ours[label]) for label in self.reference)

    @property
    def batched_delta(self) -> float:
        """Largest difference of a probability when judged in a batch."""
        return max(abs(self.reference[label] - self.batched[label]) for label in self.reference)

    @property
    def label_agrees(self) -> bool:
        """Whether both sides give the same label."""
        return _best(self.reference) == _best(self.ours) == _best(self.batched)


@dataclass(frozen=True, slots=True)
class FolderResult:
    """All pairs of one folder, and the parameters in which the networks differ."""

    name: str
    results: Sequence[PairResult]
    keys_differing: Sequence[str]
    reference_keys: Mapping[str, Sequence[int]]
    buckets: Mapping[str, str]
    versions: Mapping[str, str]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def delta(self) -> float:
        """Largest difference over all pairs, alone or batched."""
        return max(max(result.delta, result.batched_delta) for result in self.results)

    @property
    def labels_agreeing(self) -> int:
        """Number of pairs with the same label."""
        return sum(result.label_agrees for result in self.results)

    @property
    def tokens_agreeing(self) -> int:
        """Number of pairs with the same token ids."""
        return sum(list(result.tokens) == list(result.our_tokens) for result in self.results)

    @property
    def passed(self) -> bool:
        """Whether labels, tokens and parameters agree and every probability is within the tolerance."""
        total = len(self.results)
        complete = self.labels_agreeing == self.tokens_agreeing == total and not self.keys_differing
        return complete and self.delta <= TOLERANCE

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest probability; equal or saturated answers would be a weak test."""
        values = [value for result in self.results for value in result.reference.values()]
        return min(values), max(values)


def compare_folder(
    reference: ReferenceProcess, name: str, folder: Path, pairs: Sequence[TextPair], pictures: Path
) -> FolderResult:
    """Judge `pairs`, whose pictures are in `pictures`, with both. Raises ReferenceFailed, OFAError."""
    started = time.monotonic()
    loaded = reference.load(folder)
    labels = _labels(folder)
    theirs = []
    loaded_at = time.monotonic()
    for pair in pairs:
        picture = str(pictures / pair.picture)
        theirs.append(reference.ask("compare", picture=picture, text=pair.text, premise=pair.premise))
    answered_at = time.monotonic()
    model = EntailmentModel.load(folder)
    # ModelScope drops alpha.
    opened = [open_picture(pictures / pair.picture, transparency="dropped") for pair in pairs]
    questions = [Pair(image, pair.text, pair.premise) for image, pair in zip(opened, pairs, strict=True)]
    alone = [model.judge([question])[0] for question in questions]
    ours_at = time.monotonic()
    batched = model.judge(questions)
    keys = reference.ask("keys", folder=str(folder))
    results = [
        PairResult(
            pair=pair,
            reference={labels[answer]: value for answer, value in reply["scores"].items()},
            ours=one,
            batched=many,
            tokens=reply["tokens"],
            our_tokens=build_source(model.tokenizer, model.task, pair.text, pair.premise),
        )
        for pair, reply, one, many in zip(pairs, theirs, alone, batched, strict=True)
    ]
    _check_own_verdict(theirs)
    return FolderResult(
        name=name,
        results=results,
        keys_differing=differing_keys(keys["keys"], NetworkConfig.from_folder(folder)),
        reference_keys=keys["keys"],
        buckets=keys["buckets"],
        versions=loaded["versions"],
        seconds={
            "reference load": loaded_at - started,
            "reference per pair": (answered_at - loaded_at) / len(pairs),
            "ofa load and pairs": ours_at - answered_at,
        },
    )


def differing_keys(reference: Mapping[str, Sequence[int]], config: NetworkConfig) -> list[str]:
    """Return parameters that one network lacks or has in another shape, without ignored keys."""
    import torch

    with torch.device("meta"):
        ours = {key: list(value.shape) for key, value in OFA(config).state_dict().items()}
    theirs = {key: list(shape) for key, shape in reference.items() if not is_ignored(key)}
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


def _labels(folder: Path) -> dict[str, str]:
    """Return answer → label, as ofa reads the folder."""
    from ofa.config import TaskConfig

    task = TaskConfig.from_folder(folder)
    return dict(zip(task.answers, task.labels, strict=True))


def _check_own_verdict(replies: Sequence[Mapping[str, Any]]) -> None:
    """Check that the recorded probabilities match the label and score that the pipeline returned."""
    for reply in replies:
        if reply["scores"][reply["label"]] != reply["score"] or _best(reply["scores"]) != reply["label"]:
            raise ReferenceFailed("the recorded probabilities contradict the pipeline's own verdict")


def _best(scores: Mapping[str, float]) -> str:
    return max(scores, key=lambda label: scores[label])
