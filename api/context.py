"""What is known of a request before its body is read: its id, its caller, its language, its arrival."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from typing import Final

from service.callers import Callers
from service.http.bodies import Scope, values
from service.http.headers import by_name, caller_of
from service.http.language import language_of
from service.texts import Language

ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
REQUEST_ID: Final = b"x-request-id"
_KEY: Final = "ofa.context"


@dataclass(frozen=True, slots=True)
class Context:
    """``request_id`` is the client's X-Request-ID if it is valid, else ours. ``arrived`` is in
    ``time.monotonic()`` seconds."""

    request_id: str
    caller: str
    language: Language
    arrived: float


def attach(scope: Scope, callers: Callers) -> Context:
    """Make the context of a request and keep it in its scope."""
    sent = values(scope, REQUEST_ID)
    given = sent[0].decode("latin-1") if len(sent) == 1 else ""
    context = scope[_KEY] = Context(
        request_id=given if ID.fullmatch(given) else secrets.token_hex(8),
        caller=caller_of(scope, callers),
        language=language_of(by_name(scope).get("accept-language")),
        arrived=time.monotonic(),
    )
    return context


def context_of(scope: Scope) -> Context:
    """Return the context that ``attach`` has made."""
    found = scope[_KEY]
    assert isinstance(found, Context)
    return found
