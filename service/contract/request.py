"""The values that travel with a request: the pair to judge, the request, its timing, the verdict."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Literal

from ofa.pair import Pair as Pair  # re-exported: the network's own question travels all the way
from service.contract.calibration import Calibration, Decision
from service.contract.correlation import Trace
from service.contract.errors import NotFinite, ServiceError
from service.contract.log_line import fields

LABELS: Final = ("Yes", "No", "Maybe")
MAX_TEXTS: Final = 32  # about one picture in one call
Source = Literal["page", "api", "probe", "batch"]


@dataclass(frozen=True, slots=True)
class Request:
    """One question with its deadline.

    ``arrived`` and ``deadline`` are ``time.monotonic()`` seconds, ``size`` is the width and height of the
    picture as sent, ``prepared`` the seconds spent on decoding and checks. Source ``batch`` is a background
    row, whose time limit begins with its computation: its deadline is infinity. ``caller`` identifies whose
    request it is, "" for a script in this process; ``client_id`` ("" without) and ``trace`` are the client's
    own identifiers. In a refused request ``pair`` holds the raw texts and no picture.
    """

    id: str
    pair: Pair
    arrived: float
    deadline: float
    source: Source = "api"
    caller: str = ""
    size: tuple[int, int] = (0, 0)
    prepared: float = 0.0
    client_id: str = ""
    trace: Trace | None = None

    def age(self, now: float) -> float:
        """Seconds from its arrival to ``now`` (monotonic)."""
        return now - self.arrived

    @property
    def of_user(self) -> bool:
        """Whether a user waits for its answer: it is neither a probe nor a background row."""
        return self.source in ("page", "api")

    @property
    def chars(self) -> int:
        """Characters of both texts: all that a log may say about them."""
        return len(self.pair.hypothesis) + len(self.pair.premise or "")

    @property
    def correlation(self) -> str:
        """The client's identifiers as log fields, "" without."""
        return fields(client_id=self.client_id or None, trace=self.trace.trace_id if self.trace else None)


@dataclass(frozen=True, slots=True)
class RequestTiming:
    """Where a queued request spent its time: how many requests were ``ahead`` of it on arrival, the seconds
    it ``waited`` and was ``computed`` (None: never), and the size of its ``batch``."""

    ahead: int = 0
    waited: float = 0.0
    computed: float | None = None
    batch: int = 0


@dataclass(frozen=True, slots=True)
class QueueEstimate:
    """How many requests are ``ahead``, waiting or being computed, and the estimated ``seconds`` to the
    answer, None before the first measurement."""

    ahead: int
    seconds: float | None = None


def new_id(unix_time: float) -> str:
    """Return ``req_<unix>_<random>``: unique also when two instances write one log."""
    return f"req_{int(unix_time)}_{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one request.

    ``reason`` and ``code`` are None exactly when the model decided; else ``code`` is the refusal behind
    ``reason: "busy"``, or repeats the reason. ``retry_after`` and ``duration`` are seconds. ``device`` and
    ``dtype`` are "" when nothing was computed. ``error`` is the cause of a missing verdict, if known.
    ``calibrated`` scores and the ``decision`` on them are None without a calibration; label and scores do not
    depend on it.
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
    calibrated: Mapping[str, float] | None = None
    decision: Decision | None = None

    @classmethod
    def of(
        cls,
        scores: Mapping[str, float],
        *,
        duration: float,
        device: str,
        dtype: str = "",
        request_id: str = "",
        calibration: Calibration | None = None,
    ) -> Verdict:
        """Return the model's verdict for probabilities keyed by LABELS. Raises NotFinite."""
        if not all(math.isfinite(scores[label]) for label in LABELS):
            raise NotFinite("The model returned scores that are not finite numbers.")
        label = max(LABELS, key=lambda name: scores[name])
        ordered = {name: float(scores[name]) for name in LABELS}
        calibrated = decision = None
        if calibration is not None:
            calibrated = calibration.calibrated(ordered)
            decision = calibration.decide(calibrated)
        return cls(
            label,
            ordered[label],
            ordered,
            duration=duration,
            device=device,
            dtype=dtype,
            request_id=request_id,
            calibrated=calibrated,
            decision=decision,
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
        """Return an answer without a verdict: Maybe at 0.5 for scripts that read only label and score."""
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
        """Return the public form: label, score, scores, reason; ``code`` when there is no verdict;
        ``calibrated`` and ``decision`` when there is a calibration."""
        scores = None if self.scores is None else dict(self.scores)
        answer = {"label": self.label, "score": self.score, "scores": scores, "reason": self.reason}
        if self.reason is not None:
            return {**answer, "code": self.code}
        if self.calibrated is None:
            return answer
        return {**answer, "calibrated": dict(self.calibrated), "decision": self.decision}


class VerdictFuture(Future[Verdict]):
    """The verdict to come. ``queue_estimate`` is what the engine expected when it accepted the request,
    ``timing`` what it took until it ended; both are None for a request that was not accepted, the estimate
    for a background row as well."""

    queue_estimate: QueueEstimate | None = None
    timing: RequestTiming | None = None
