"""Whose request it is: the one identity that every limit per caller counts by.

An address stands for a caller, of IPv6 the /64 that one subscriber has all of. Behind proxies that are named
as trusted it is the address that the last of them saw: the rightmost one in ``X-Forwarded-For`` that is not a
trusted proxy's. What an untrusted peer writes into that header is not looked at.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

UNKNOWN: Final = "?"
_HOPS: Final = 16  # addresses looked at in one header; no deployment has as many proxies in a row
_HEADER: Final = "x-forwarded-for"


class Callers:
    """Tells callers apart. ``trusted`` are the networks whose ``X-Forwarded-For`` counts."""

    def __init__(self, trusted: Iterable[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def is_proxy(self, peer: str) -> bool:
        """Whether connections from ``peer`` carry many callers' requests, so that a cap by address is none
        of one caller's."""
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
    """Addresses and networks separated by commas. Raises ValueError."""
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
