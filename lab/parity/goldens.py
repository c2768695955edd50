"""ModelScope's recorded answers for the small folders; `make test` checks ofa/ against them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lab import ROOT
from lab.parity.compare import FolderResult
from lab.parity.pairs import pixel_digest
from ofa.image import open_picture

GOLDENS = ROOT / "tests" / "parity" / "goldens"
PICTURES = "pictures.json"


@dataclass(frozen=True, slots=True)
class Golden:
    """One folder.

    Attributes:
        versions: packages that ModelScope ran with.
        weights: hash of the weights.
        keys: hash of the network's parameter names and shapes, ignored ones included.
        buckets: hashes of its integer buffers.
        scores: per pair, probabilities by label, in the order of the answers.
        tokens: per pair, the encoder's token ids.
    """

    versions: Mapping[str, str]
    weights: str
    keys: str
    buckets: Mapping[str, str]
    scores: Sequence[Mapping[str, float]]
    tokens: Sequence[Sequence[int]]


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """Return a hash of a state dict's floating-point values."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        if weights[key].is_floating_point():
            digest.update(key.encode() + weights[key].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def keys_digest(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return a hash of names and shapes."""
    listed = [f"{key}:{list(shape)}" for key, shape in sorted(shapes.items())]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16]


def write_golden(result: FolderResult, weights: Mapping[str, torch.Tensor]) -> Path:
    """Write a folder's golden, one line per pair, so that diffs are readable."""
    head = {
        "versions": dict(result.versions),
        "weights": weights_digest(weights),
        "keys": keys_digest(result.reference_keys),
        "buckets": dict(result.buckets),
    }
    pairs = [{"scores": dict(pair.reference), "tokens": list(pair.tokens)} for pair in result.results]
    lines = [json.dumps(head, indent=1)[:-2] + ",", ' "pairs": [']
    lines += ["  " + json.dumps(pair) + ("," if pair is not pairs[-1] else "") for pair in pairs]
    path = GOLDENS / f"{result.name}.json"
    path.write_text("\n".join([*lines, " ]", "}"]) + "\n", encoding="utf-8")
    return path


def read_golden(name: str) -> Golden:
    """Return the golden of the folder `name`."""
    raw: dict[str, Any] = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    pairs = raw.pop("pairs")
    return Golden(**raw, scores=[pair["scores"] for pair in pairs], tokens=[pair["tokens"] for pair in pairs])


def write_pictures_golden(folder: Path, names: Iterable[str]) -> Path:
    """Write hashes of the pictures' pixels as decoded on this machine."""
    digests = {
        name: pixel_digest(open_picture(folder / name, transparency="dropped")) for name in sorted(set(names))
    }
    path = GOLDENS / PICTURES
    path.write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    return path


def read_pictures_golden() -> dict[str, str]:
    """Return picture name → hash."""
    digests: dict[str, str] = json.loads((GOLDENS / PICTURES).read_text(encoding="utf-8"))
    return digests
