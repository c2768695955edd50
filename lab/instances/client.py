"""A client of POST /v1/judge."""

from __future__ import annotations

import base64
import json
from http.client import HTTPConnection
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """Status and body of an answer; ``retry_after`` in seconds, 0 without the header."""

    status: int
    body: dict[str, Any]
    retry_after: float


def judge(port: int, picture: bytes, *texts: str, caller: str = "", timeout: float = 60.0) -> Answer:
    """Judge texts about one picture, on a new connection to 127.0.0.1.

    ``caller`` is the address that a trusted proxy would name. Raises OSError and HTTPException.
    """
    question = {"image": base64.b64encode(picture).decode(), "text": texts}
    headers = {"Content-Type": "application/json", **({"X-Forwarded-For": caller} if caller else {})}
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", "/v1/judge", json.dumps(question), headers)
        response = connection.getresponse()
        return Answer(response.status, json.load(response), float(response.headers.get("Retry-After") or 0.0))
    finally:
        connection.close()
