"""The answers of the API behind --engine as values and errors of the service: the one mapping. No I/O.

Nothing of an answer but numbers, known codes and names of the model is used: its texts go no further.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

from service.contract.calibration import Calibration, Decision
from service.contract.causes import ApiCode, CalibrationCode, Denial, InputCode, Refusal
from service.contract.errors import (
    Busy,
    CallerBusy,
    DeadlineExceeded,
    Fact,
    InferenceError,
    InputError,
    InvalidAnswer,
    InvalidTexts,
    KeyRefused,
    NotReady,
    ServiceError,
    ShuttingDown,
    Unreachable,
)
from service.contract.request import LABELS, MAX_TEXTS, Request, Verdict
from service.contract.status import CalibrationState, Limits, Phase, Remote

RETRY_SECONDS: Final = 5.0  # where the answer has no Retry-After
MAX_FACTS: Final = 16
MOST: Final = 2**53  # a larger number is not the API's; neither is a NaN
_FACT: Final = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
_STAGE: Final = re.compile(r"(queue|compute);dur=([0-9]{1,9}(?:\.[0-9]{1,6})?)")
_KEY_CODES: Final = frozenset(Denial) - {Denial.RATE_LIMIT, Denial.CONCURRENT_LIMIT}
#: What reading a value of another type than expected raises.
_ODD: Final = (AttributeError, KeyError, TypeError, ValueError)
_NOT_READ: Final = "The engine's answer is not one of this service's API."


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. ``content`` is its JSON object, empty if it is not one; ``retry_after`` is in
    seconds, ``timing`` its Server-Timing header."""

    status: int
    content: Mapping[str, Any]
    retry_after: float = RETRY_SECONDS
    timing: str = ""

    @classmethod
    def of(cls, status: int, body: bytes, headers: Mapping[str, str]) -> Answer:
        """``headers`` have lower-case names."""
        retry = headers.get("retry-after", "")
        return cls(
            status,
            _parsed(body),
            float(retry) if re.fullmatch(r"[0-9]{1,5}", retry) else RETRY_SECONDS,
            headers.get("server-timing", ""),
        )

    @property
    def code(self) -> str:
        """The code of its problem, "" without one that may be logged."""
        code = self.content.get("code")
        return code if isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}", code) else ""

    def seconds(self, stage: str) -> float | None:
        """Return how long the engine spent in ``queue`` or ``compute``, None if it does not say."""
        found = dict(_STAGE.findall(self.timing)).get(stage)
        return None if found is None else float(found) / 1000


def error_of(answer: Answer) -> ServiceError:
    """Map an answer without verdicts to an error."""
    code, retry = answer.code, answer.retry_after
    if code in set(InputCode):
        return _input_error(answer, InputCode(code))
    if code == ApiCode.TOO_LARGE or (not code and answer.status == 413):  # the latter of a proxy
        return InputError("The picture file is too large.", code=InputCode.IMAGE_BYTES_TOO_LARGE)
    if code == Refusal.CALLER_LIMIT:
        return CallerBusy("The engine has too many requests of this caller.", retry_after=retry)
    if code in (Refusal.QUEUE_FULL, Refusal.TOO_LATE, Refusal.STUCK):
        return Busy("The engine has no capacity.", retry_after=retry, code=Refusal(code))
    if code in (Denial.RATE_LIMIT, Denial.CONCURRENT_LIMIT, ApiCode.NO_ROOM):
        return Busy("The engine's limit is reached.", retry_after=retry)
    if code in _KEY_CODES:
        return KeyRefused(f"The engine refused this server's key: {code}.")
    if code == Refusal.LOADING:
        return NotReady("The engine's model is not loaded.")
    if code == Refusal.STOPPING:
        return ShuttingDown("The engine is stopping.")
    if code == Refusal.NO_INSTANCE:
        return Unreachable("The proxy before the engine reaches no instance.")
    if code == "timeout":
        return DeadlineExceeded("The engine did not answer in time.")
    if code == "error":
        return InferenceError("The engine failed on this request.")
    return InvalidAnswer(_NOT_READ)


def verdicts_of(answer: Answer, requests: Sequence[Request], engine: Remote, now: float) -> list[Verdict]:
    """Return the verdict of each request at ``now`` (monotonic). Raises InvalidAnswer for anything that is
    not the engine's verdicts on exactly these."""
    results = answer.content.get("results")
    if not isinstance(results, list) or len(results) != len(requests):
        raise InvalidAnswer(_NOT_READ)
    return [_verdict(one, request, engine, now) for one, request in zip(results, requests, strict=True)]


def engine_of(answer: Answer, url: str) -> Remote:
    """Return the engine that describes itself. Raises InvalidAnswer, and Unreachable for a page that has not
    reached its own engine, such as this process."""
    content = answer.content
    if content.get("state") == Phase.UNINITIALIZED and not content.get("model"):
        raise Unreachable(
            "The address is that of a page without an engine.", remedy="Point --engine at an instance."
        )
    try:
        if not isinstance(content["ready"], bool) or list(content["labels"]) != list(LABELS):
            raise ValueError("not this API")
        return Remote(
            url,
            problem=None,
            phase=Phase(content["state"]),
            ready=content["ready"],
            refusal=None if (refusal := content.get("refusal")) is None else Refusal(refusal),
            model=_name(content["model"], 200),
            device=_name(content["device"], 40),
            dtype=_name(content["dtype"], 40),
            calibration=_calibration(content["calibration"]),
            limits=Limits(
                **{name: _count(content[name]) for name in ("max_texts", "max_chars", "max_bytes")},
                max_pixels=_count(content["max_pixels"]),
                timeout=_number(content["timeout"], 0.0, 86400.0),
            ),
        )
    except _ODD as error:
        raise InvalidAnswer(_NOT_READ) from error


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_reject)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _reject(constant: str) -> None:
    raise ValueError(constant)  # NaN and infinities are not JSON


def _input_error(answer: Answer, code: InputCode) -> InputError:
    error = InputError("The engine cannot judge this input.", code=code)
    error.facts = _facts(answer.content)
    listed = answer.content.get("errors")
    if not isinstance(listed, list):
        return error
    found = [
        (one["index"], InputError(error.message, code=one["code"]))
        for one in listed[:MAX_TEXTS]
        if isinstance(one, dict) and isinstance(one.get("index"), int) and one.get("code") in list(InputCode)
    ]
    if not found:
        return error
    texts = InvalidTexts(found)
    texts.facts = error.facts
    return texts


def _facts(content: Mapping[str, Any]) -> dict[str, Fact]:
    """Return the values in an error's text: numbers, and short words such as the name of a language."""
    sent = content.get("facts")
    listed = list(sent.items())[:MAX_FACTS] if isinstance(sent, dict) else []
    return {
        name: value
        for name, value in listed
        if name.isidentifier() and (_is_number(value) or (isinstance(value, str) and _FACT.fullmatch(value)))
    }


def _verdict(result: object, request: Request, engine: Remote, now: float) -> Verdict:
    try:
        if not isinstance(result, dict) or result["reason"] is not None:
            raise ValueError("no verdict")
        verdict = Verdict.of(
            _scores(result["scores"]),
            duration=request.age(now),
            device=engine.device,
            dtype=engine.dtype,
            request_id=request.id,
        )
        if result["label"] != verdict.label:
            raise ValueError("another label than the scores'")
        if "calibrated" not in result:
            return verdict
        if (decision := result["decision"]) not in get_args(Decision):
            raise ValueError("not a decision")
        return replace(verdict, calibrated=_scores(result["calibrated"]), decision=decision)
    except _ODD as error:
        raise InvalidAnswer(_NOT_READ) from error


def _scores(sent: Any) -> dict[str, float]:
    if set(sent) != set(LABELS):
        raise ValueError("not the three labels")
    return {label: _number(sent[label], 0.0, 1.0) for label in LABELS}


def _calibration(sent: Mapping[str, Any]) -> CalibrationState:
    code = sent.get("code")
    if sent["state"] not in ("used", "ignored", "none"):
        raise ValueError("not a state")
    if sent["state"] != "used":
        return CalibrationState(sent["state"], None if code is None else CalibrationCode(code))
    temperature, accept, review = (
        _number(sent[name], 0.0, 1000.0) for name in ("temperature", "accept", "review")
    )
    return CalibrationState("used", calibration=Calibration(temperature, accept, review, weights_sha256=""))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST


def _number(value: Any, least: float, most: float) -> float:
    if not _is_number(value) or not least <= value <= most:
        raise ValueError("not a number within its range")
    return float(value)


def _count(value: Any) -> int:
    return int(_number(value, 1, 2**40))


def _name(value: Any, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ValueError("not a name")
    return value
