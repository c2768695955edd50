"""What of the environment must not reach the page."""

from __future__ import annotations

import functools


@functools.cache
def ignore_proxies() -> None:
    """Keep httpx from reading proxies and certificates from the environment.

    Gradio makes clients with it while it is imported, and the page uses none of them. A proxy of a kind that
    httpx does not know, a no_proxy that it cannot parse or a certificate file that is gone would end the
    import. Fetching models is done by another library, which keeps to the environment.
    """
    import httpx

    for kind in (httpx.Client, httpx.AsyncClient, httpx.HTTPTransport, httpx.AsyncHTTPTransport):
        blind = functools.partialmethod(kind.__init__, trust_env=False)
        kind.__init__ = blind  # type: ignore[method-assign, assignment]
