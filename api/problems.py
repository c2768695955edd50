"""Every error of the API as application/problem+json (RFC 9457): the one mapping from errors to answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from api.context import Context
from batch.errors import BatchRefused
from batch.rows import ListError
from service.contract.causes import ApiCode, BatchCode, Denial, InputCode, ListCode, Refusal
from service.contract.errors import Denied, InputError, InvalidTexts
from service.contract.request import Verdict
from service.http.bodies import Refused, Reply
from service.http.identity import headers_of
from service.texts import load_texts

MEDIA_TYPE: Final = "application/problem+json"
TEXTS: Final = load_texts(Path(__file__).parent / "text", "problems")

#: Seconds to wait where the queue gives no estimate.
RETRY_SECONDS: Final[Mapping[str, int]] = {
    Refusal.LOADING: 5,
    Refusal.STOPPING: 10,
    Refusal.STUCK: 5,
    Refusal.NO_INSTANCE: 5,
    Refusal.CALLER_LIMIT: 1,
    Refusal.QUEUE_FULL: 1,
    Refusal.TOO_LATE: 1,
    BatchCode.BATCH_LIMIT: 60,
}
STATUS: Final[Mapping[str, int]] = {
    ApiCode.MALFORMED: 400,
    Denial.NO_KEY: 401,
    Denial.WRONG_KEY: 401,
    Denial.CROSS_ORIGIN: 403,
    Denial.TEXTS_OVER_LIMIT: 403,
    ApiCode.NOT_FOUND: 404,
    ApiCode.METHOD_NOT_ALLOWED: 405,
    ApiCode.TOO_SLOW: 408,
    ApiCode.TOO_LARGE: 413,
    ApiCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ApiCode.INVALID_FIELD: 422,
    ApiCode.INVALID_ID: 422,
    **{code: 422 for code in InputCode if code not in (InputCode.IMAGE_ELSEWHERE, InputCode.UPLOAD_GONE)},
    InputCode.IMAGE_BYTES_TOO_LARGE: 413,
    Denial.RATE_LIMIT: 429,
    Denial.CONCURRENT_LIMIT: 429,
    BatchCode.NOT_HERE: 404,
    BatchCode.IDEMPOTENCY_CONFLICT: 409,
    BatchCode.EXPIRED: 410,
    **dict.fromkeys(ListCode, 422),
    ListCode.LIST_TOO_LARGE: 413,
    ListCode.ARCHIVE_TOO_LARGE: 413,
    BatchCode.BATCH_LIMIT: 429,
    BatchCode.BATCHES_OFF: 501,
    "error": 500,
    **dict.fromkeys(Refusal, 503),
    Refusal.CALLER_LIMIT: 429,
    "timeout": 504,
    ApiCode.NO_ROOM: 507,
}
#: The codes of refusals that know only a status: of the framing, of the memory for bodies, of the router.
_BY_STATUS: Final[Mapping[int, str]] = {
    400: ApiCode.MALFORMED,
    404: ApiCode.NOT_FOUND,
    405: ApiCode.METHOD_NOT_ALLOWED,
    413: ApiCode.TOO_LARGE,
    415: ApiCode.UNSUPPORTED_MEDIA_TYPE,
    416: ApiCode.MALFORMED,
    429: Refusal.CALLER_LIMIT,
    503: ApiCode.NO_ROOM,
    507: ApiCode.NO_ROOM,
}


#: The codes with another detail where a batch is refused.
_OF_BATCH: Final = frozenset({ApiCode.NOT_FOUND, ApiCode.TOO_LARGE, ApiCode.NO_ROOM})
NO_ROOM_SECONDS: Final = 60  # where the disk is full
MAX_COLUMN_NAME: Final = 100  # characters


class Problem(Exception):
    """An error answer. ``code`` is one of STATUS, ``text`` the key of its detail if that is more specific,
    ``retry_after`` is in seconds, ``errors`` lists {"index", "code"} of single texts, ``columns`` those of a
    refused list, ``values`` fill in the detail."""

    def __init__(
        self,
        code: str,
        text: str = "",
        *,
        retry_after: float | None = None,
        errors: Sequence[Mapping[str, object]] | None = None,
        columns: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        values: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(code)
        self.code = str(code)
        self.status = STATUS[self.code]
        self.text = text or self.code
        self.retry_after = RETRY_SECONDS.get(self.code) if retry_after is None else retry_after
        self.errors = errors
        self.columns = columns
        self.headers = headers or {}
        self.values = values or {}


def of_denied(denied: Denied) -> Problem:
    """Map a denial of service.http.identity."""
    return Problem(denied.code, headers=headers_of(denied), values=denied.facts)


def of_refused(refused: Refused) -> Problem:
    """Map a refusal of service.http."""
    return Problem(_BY_STATUS.get(refused.status, ApiCode.MALFORMED), retry_after=refused.retry_after)


def of_status(status: int, headers: Mapping[str, str] | None = None) -> Problem:
    """Map an answer of the router: an unknown path or method."""
    return Problem(_BY_STATUS.get(status, "error"), headers=headers)


def of_input(error: InputError) -> Problem:
    """Map input that cannot be judged."""
    code = error.code if error.code in STATUS else ApiCode.INVALID_FIELD
    errors = None
    if isinstance(error, InvalidTexts):
        errors = [{"index": index, "code": str(code)} for index, code in error.errors]
    text = "image_unsupported.heic" if error.facts.get("missing_heic") else ""
    return Problem(code, text, errors=errors, values=error.facts)


def of_batch(error: BatchRefused) -> Problem:
    """Map what the batches refuse."""
    retry = NO_ROOM_SECONDS if error.code == ApiCode.NO_ROOM else None
    text = f"{error.code}.batch" if error.code in _OF_BATCH else ""
    return Problem(error.code, text, retry_after=retry, values=error.facts)


def of_list(error: ListError) -> Problem:
    """Map a list, or an archive, that cannot be read."""
    columns = [name[:MAX_COLUMN_NAME].encode("utf-8", "ignore").decode() for name in error.columns]
    return Problem(error.code, columns=columns, values=error.facts)


def of_verdict(verdict: Verdict) -> Problem:
    """Map an answer without a verdict."""
    code = verdict.code if verdict.code in STATUS else None
    return Problem(code or "error", retry_after=verdict.retry_after)


def content(problem: Problem, context: Context) -> dict[str, Any]:
    """Return the problem as the object that is sent."""
    texts = TEXTS[context.language]
    found: dict[str, Any] = {
        "type": f"/docs#{problem.code}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "code": problem.code,
        "detail": texts[problem.text].format_map(_Values(problem.values)),
        "request_id": context.request_id,
    }
    if problem.values and problem.code in set(InputCode):
        found["facts"] = dict(problem.values)
    if problem.columns:
        found["columns"] = list(problem.columns)
    return found if problem.errors is None else {**found, "errors": list(problem.errors)}


def reply(problem: Problem, context: Context, more: Mapping[str, object] | None = None) -> Reply:
    """Return the complete answer; ``more`` are further members."""
    body = json.dumps({**content(problem, context), **(more or {})}, ensure_ascii=False).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    headers.append((b"content-language", context.language.encode()))
    if problem.retry_after is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(problem.retry_after))).encode()))
    return Reply(problem.status, headers, body)


class _Values(dict[str, object]):
    """Values of a text; one that an error does not know is shown as …"""

    def __missing__(self, key: str) -> str:
        return "…"
