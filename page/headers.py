"""The headers of a request: refused where they are malformed, and what of them reaches Gradio.

Gradio builds addresses from Host and from what proxies add, and an odd one of these ends in an error of its
own. So both are checked, and what a proxy adds counts only from a proxy that is trusted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from page.bodies import Refused, Scope, values

Raw = Sequence[tuple[bytes, bytes]]

#: Headers that may be there once.
SINGLE: Final = (b"host", b"content-type", b"content-encoding", b"range", b"origin", b"expect")
FORWARDED_FOR: Final = b"x-forwarded-for"
FORWARDED_HOST: Final = b"x-forwarded-host"
FORWARDED_PROTO: Final = b"x-forwarded-proto"
#: What Gradio would believe from anybody.
_DROPPED: Final = (FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, b"x-gradio-server", b"forwarded")

_HOST: Final = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_RANGE: Final = re.compile(rb"bytes=(?:([0-9]{1,15})-([0-9]{1,15})?|-[0-9]{1,15})")
_JSON: Final = re.compile(rb"application/json[ \t]*(?:;[ \t]*charset=\"?utf-8\"?[ \t]*)?", re.IGNORECASE)


def check_headers(scope: Scope) -> None:
    """Raises Refused for headers that cannot be meant."""
    for name in SINGLE:
        if len(values(scope, name)) > 1:
            raise Refused(400, f"There is more than one {name.decode().title()}.")
    host = values(scope, b"host")
    if host and not is_host(host[0].decode("latin-1")):
        raise Refused(400, "Host is malformed.")
    if values(scope, b"content-encoding") not in ([], [b"identity"]):
        raise Refused(415, "Send the body as it is, without Content-Encoding.")
    for asked in values(scope, b"range"):
        found = _RANGE.fullmatch(asked)
        if found is None or (found[2] and int(found[2]) < int(found[1])):
            raise Refused(416, "This is not a range of bytes.")


def is_host(text: str) -> bool:
    """Whether this is a name or an address, perhaps with a port, of which Gradio can make a URL."""
    from httpx import URL, InvalidURL  # late, as all that Gradio brings: the port comes first

    if not _HOST.fullmatch(text):
        return False
    try:
        return bool(URL(f"http://{text}/").raw_host)
    except InvalidURL:  # a port or an address out of bounds
        return False


def for_gradio(headers: Raw, *, trusted: bool) -> list[tuple[bytes, bytes]]:
    """The headers that are passed on. X-Forwarded-For is one header in the end, as a proxy may add a line of
    its own; the others count from a ``trusted`` proxy alone."""
    passed = [(name, value) for name, value in headers if name not in _DROPPED]
    hops = [value for name, value in headers if name == FORWARDED_FOR]
    if hops:
        passed.append((FORWARDED_FOR, b", ".join(hops)))
    if trusted:
        said = dict(headers)
        if is_host(said.get(FORWARDED_HOST, b"").decode("latin-1")):
            passed.append((FORWARDED_HOST, said[FORWARDED_HOST]))
        if said.get(FORWARDED_PROTO) in (b"http", b"https"):
            passed.append((FORWARDED_PROTO, said[FORWARDED_PROTO]))
    return passed


def is_form_of_json(headers: Raw) -> bool:
    """Whether the body is said to be JSON: a stranger's page can make a browser post a form here, but not
    that, without asking first."""
    return bool(_JSON.fullmatch(dict(headers).get(b"content-type", b"").strip()))
