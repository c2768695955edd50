"""What is known of a request before its body is read: its id, its caller, its language, its arrival."""

from __future__ import annotations

import dataclasses
import secrets
import time
from dataclasses import dataclass
from typing import Final

from service.callers import Callers
from service.contract.correlation import Trace, client_id_of, trace_of
from service.http.bodies import Scope, values
from service.http.headers import by_name, caller_of
from service.http.identity import Caller, Identity
from service.http.language import language_of
from service.texts import Language

REQUEST_ID: Final = b"x-request-id"
TRACEPARENT: Final = b"traceparent"
#: The key in a scope's "extensions" with the seconds that a request, its body complete, has already waited
#: elsewhere. A client cannot set it: servers make scopes, and no header becomes one.
SPENT: Final = "ofa.spent"
_KEY: Final = "ofa.context"


@dataclass(frozen=True, slots=True)
class Context:
    """``request_id`` is the client's X-Request-ID if it is valid, else ours. ``trace`` is its traceparent.
    ``arrived`` is in ``time.monotonic()`` seconds. ``spent``: seconds waited elsewhere, see SPENT."""

    request_id: str
    trace: Trace | None
    caller: Caller
    language: Language
    arrived: float
    spent: float = 0.0

    def read(self) -> float:
        """Return the time from which the time limit counts, in monotonic seconds, if the body is read now."""
        return time.monotonic() - self.spent


def attach(scope: Scope, callers: Callers) -> Context:
    """Make the context of a request and keep it in its scope."""
    spent = scope.get("extensions", {}).get(SPENT, 0.0)
    context = scope[_KEY] = Context(
        request_id=client_id_of(_only(scope, REQUEST_ID)) or secrets.token_hex(8),
        trace=trace_of(_only(scope, TRACEPARENT)),
        caller=Caller(caller_of(scope, callers)),
        language=language_of(by_name(scope).get("accept-language")),
        arrived=time.monotonic() - spent,
        spent=spent,
    )
    return context


def identify(scope: Scope, identity: Identity) -> Caller:
    """Return the caller, and keep it in the request's context. Raises Denied."""
    caller = identity.identify(scope)
    scope[_KEY] = dataclasses.replace(context_of(scope), caller=caller)
    return caller


def _only(scope: Scope, name: bytes) -> str | None:
    """Return the value of a header that was sent exactly once."""
    sent = values(scope, name)
    return sent[0].decode("latin-1") if len(sent) == 1 else None


def context_of(scope: Scope) -> Context:
    """Return the context that ``attach`` has made."""
    found = scope[_KEY]
    assert isinstance(found, Context)
    return found
