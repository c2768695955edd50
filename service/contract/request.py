"""The value objects that travel: a pair to judge, the request around it, the verdict that comes back."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Literal

from PIL import Image

from service.contract.errors import NotFinite, ServiceError

LABELS: Final = ("Yes", "No", "Maybe")
Source = Literal["page", "api", "probe"]


@dataclass(frozen=True, slots=True)
class Pair:
    """What the model is asked: does ``image`` (PIL, RGB) show ``hypothesis``, given ``premise`` if any?"""

    image: Image.Image
    hypothesis: str
    premise: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One accepted question. ``arrived`` and ``deadline`` are ``time.monotonic()`` seconds; ``size`` is the
    picture's as sent, width and height, and ``prepared`` the seconds it took to read and check everything."""

    id: str
    pair: Pair
    arrived: float
    deadline: float
    source: Source = "api"
    size: tuple[int, int] = (0, 0)
    prepared: float = 0.0

    @property
    def chars(self) -> int:
        """Characters of text, premise included: all that a log may say about the text."""
        return len(self.pair.hypothesis) + len(self.pair.premise or "")


@dataclass(frozen=True, slots=True)
class RequestTiming:
    """How an accepted request went: how many were ``ahead`` of it when it came, waiting or being computed,
    the seconds it ``waited`` and was ``computed`` (None: it never was), and the size of the ``batch`` it was
    computed in."""

    ahead: int = 0
    waited: float = 0.0
    computed: float | None = None
    batch: int = 0


@dataclass(frozen=True, slots=True)
class QueueEstimate:
    """What an accepted request had before it when it came: how many were ``ahead`` of it, waiting or being
    computed, and in how many ``seconds`` it should be answered, None while nothing was measured yet."""

    ahead: int
    seconds: float | None = None


def new_id(unix_time: float) -> str:
    """``req_<unix>_<id>``; random, so that two instances writing one log never share an id."""
    return f"req_{int(unix_time)}_{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one request. ``reason`` is None exactly when the model decided; ``code`` is then None as
    well, and else says which refusal ``reason: "busy"`` stands for, or repeats the reason.

    ``retry_after`` and ``duration`` are seconds; ``device`` and ``dtype`` are where and how it was computed
    ("" if it was not); ``error`` is what stood in the way, when there was something to tell.
    """

    label: str
    score: float
    scores: Mapping[str, float] | None
    reason: str | None = None
    code: str | None = None
    retry_after: float | None = None
    duration: float = 0.0
    device: str = ""
    dtype: str = ""
    request_id: str = ""
    error: ServiceError | None = None

    @classmethod
    def of(
        cls,
        scores: Mapping[str, float],
        *,
        duration: float,
        device: str,
        dtype: str = "",
        request_id: str = "",
    ) -> Verdict:
        """The model's verdict from probabilities keyed by LABELS. Raises NotFinite."""
        if not all(math.isfinite(scores[label]) for label in LABELS):
            raise NotFinite("The model returned scores that are not finite numbers.")
        label = max(LABELS, key=lambda name: scores[name])
        ordered = {name: float(scores[name]) for name in LABELS}
        return cls(
            label,
            ordered[label],
            ordered,
            duration=duration,
            device=device,
            dtype=dtype,
            request_id=request_id,
        )

    @classmethod
    def none(
        cls,
        reason: str,
        *,
        code: str | None = None,
        retry_after: float | None = None,
        duration: float = 0.0,
        request_id: str = "",
        error: ServiceError | None = None,
    ) -> Verdict:
        """No verdict: Maybe at 0.5 for scripts that read only these two, and the reason for all others."""
        return cls(
            "Maybe",
            0.5,
            None,
            reason,
            str(code or reason),
            retry_after,
            duration=duration,
            request_id=request_id,
            error=error,
        )

    def as_dict(self) -> dict[str, object]:
        """The contract: label, score, scores and reason, and without a verdict the code as well."""
        scores = None if self.scores is None else dict(self.scores)
        answer = {"label": self.label, "score": self.score, "scores": scores, "reason": self.reason}
        return answer if self.reason is None else {**answer, "code": self.code}


class VerdictFuture(Future[Verdict]):
    """The verdict to come. ``queue_estimate`` is what the engine expected when it accepted the request, None for
    a request that was not accepted."""

    queue_estimate: QueueEstimate | None = None
