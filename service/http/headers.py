"""Request headers: validation, and the caller.

Libraries build URLs from Host, and a malformed one raises inside them. So Host is validated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from service.callers import Callers
from service.http.bodies import Refused, Scope, values

Raw = Sequence[tuple[bytes, bytes]]

#: Headers that may occur only once.
SINGLE: Final = (b"host", b"content-type", b"content-encoding", b"range", b"origin", b"expect")

_HOST: Final = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_RANGE: Final = re.compile(rb"bytes=(?:([0-9]{1,15})-([0-9]{1,15})?|-[0-9]{1,15})")
_JSON: Final = re.compile(rb"application/json[ \t]*(?:;[ \t]*charset=\"?utf-8\"?[ \t]*)?", re.IGNORECASE)


def check_headers(scope: Scope) -> None:
    """Raises Refused for duplicate or malformed headers."""
    for name in SINGLE:
        if len(values(scope, name)) > 1:
            raise Refused(400, f"Duplicate {name.decode().title()} header.")
    host = values(scope, b"host")
    if host and not is_host(host[0].decode("latin-1")):
        raise Refused(400, "Invalid Host header.")
    if values(scope, b"content-encoding") not in ([], [b"identity"]):
        raise Refused(415, "Content-Encoding is not supported. Send the body unencoded.")
    for value in values(scope, b"range"):
        found = _RANGE.fullmatch(value)
        if found is None or (found[2] and int(found[2]) < int(found[1])):
            raise Refused(416, "Invalid Range header.")


def is_host(text: str) -> bool:
    """Whether this is a host name or address, with an optional port, from which a URL can be built."""
    from httpx import URL, InvalidURL  # imported late, like all that Gradio brings

    if not _HOST.fullmatch(text):
        return False
    try:
        return bool(URL(f"http://{text}/").raw_host)
    except InvalidURL:  # a port or an address out of range
        return False


def is_json(headers: Raw) -> bool:
    """Whether Content-Type is JSON. A cross-site form cannot send that without a CORS preflight."""
    return bool(_JSON.fullmatch(dict(headers).get(b"content-type", b"").strip()))


def by_name(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def peer_of(scope: Scope) -> str:
    """Return the address of the connection's other end; "" if unknown."""
    return str((scope.get("client") or ("",))[0])


def caller_of(scope: Scope, callers: Callers) -> str:
    """Return the caller: the name that service.http.identity has found, else the address."""
    known = scope.get("state", {}).get("caller")
    return callers.of(peer_of(scope), by_name(scope)) if known is None else str(known.name)


def below_root(path: str, root_path: str) -> str:
    """Return the path without the proxy's prefix, which some proxies leave in it."""
    return path.removeprefix(root_path) if root_path and path.startswith(f"{root_path}/") else path
