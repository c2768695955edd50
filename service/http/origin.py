"""Whether a request comes from a page of this server, by the Origin header that browsers send."""

from __future__ import annotations

from service.callers import Callers
from service.http.bodies import Scope
from service.http.headers import by_name, peer_of


def same_origin(scope: Scope, callers: Callers) -> bool:
    """Whether the request has no Origin, as programs send it, or this server's. X-Forwarded-Host counts only
    from a trusted proxy."""
    headers = by_name(scope)
    host = headers.get("host", "")
    if callers.is_proxy(peer_of(scope)):
        host = headers.get("x-forwarded-host") or host
    origin = headers.get("origin")
    if origin is None:
        return True
    scheme, _, address = origin.lower().partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme, "")
    return bool(port) and address.removesuffix(port) == host.lower().removesuffix(port)
