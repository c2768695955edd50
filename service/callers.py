"""Identify the caller of a request; every per-caller limit uses this identity.

A caller is an IPv4 address or an IPv6 /64, the usual allocation of one subscriber. Behind trusted proxies it
is the rightmost address in ``X-Forwarded-For`` that is not a trusted proxy's. An untrusted peer's header is
ignored.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

UNKNOWN: Final = "?"
_HOPS: Final = 16  # addresses evaluated per header; more than any chain of proxies
_HEADER: Final = "x-forwarded-for"


class Callers:
    """Identifies callers. ``trusted`` are the networks whose ``X-Forwarded-For`` is used."""

    def __init__(self, trusted: Iterable[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def is_proxy(self, peer: str) -> bool:
        """Whether ``peer`` is a trusted proxy, whose connections carry requests of many callers."""
        address = _address(peer)
        return address is not None and self._trusts(address)

    def of(self, peer: str, headers: Mapping[str, str]) -> str:
        """The caller of a request from ``peer``; ``headers`` have lower-case names."""
        address = _address(peer)
        if address is None:
            return UNKNOWN
        if self._trusts(address):
            for hop in reversed(headers.get(_HEADER, "").split(",")[-_HOPS:]):
                found = _address(hop.strip())
                if found is None:
                    break
                address = found
                if not self._trusts(address):
                    break
        return _caller(address)

    def _trusts(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._trusted)


def networks(text: str) -> tuple[Network, ...]:
    """Parse comma-separated addresses and networks. Raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(","))


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _caller(address: Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
