"""The request headers that reach Gradio, which builds URLs from X-Forwarded-* and trusts any client's."""

from __future__ import annotations

from typing import Final

from service.http.headers import Raw, is_host

FORWARDED_FOR: Final = b"x-forwarded-for"
FORWARDED_HOST: Final = b"x-forwarded-host"
FORWARDED_PROTO: Final = b"x-forwarded-proto"
#: Headers that Gradio would trust from any client, and the keys, which are for the gate.
_DROPPED: Final = (
    *(FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, b"x-gradio-server", b"forwarded"),
    *(b"authorization", b"x-api-key"),
)


def for_gradio(headers: Raw, *, trusted: bool) -> list[tuple[bytes, bytes]]:
    """Return the headers to pass on: X-Forwarded-For lines joined to one, the other forwarding headers only
    from a ``trusted`` proxy."""
    passed = [(name, value) for name, value in headers if name not in _DROPPED]
    hops = [value for name, value in headers if name == FORWARDED_FOR]
    if hops:
        passed.append((FORWARDED_FOR, b", ".join(hops)))
    if trusted:
        sent = dict(headers)
        if is_host(sent.get(FORWARDED_HOST, b"").decode("latin-1")):
            passed.append((FORWARDED_HOST, sent[FORWARDED_HOST]))
        if sent.get(FORWARDED_PROTO) in (b"http", b"https"):
            passed.append((FORWARDED_PROTO, sent[FORWARDED_PROTO]))
    return passed
