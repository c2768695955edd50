"""The caller of a request: peers, trusted proxies, forged headers."""

from __future__ import annotations

import pytest

from service.callers import UNKNOWN, Callers, networks

PROXIED = Callers(networks("10.0.0.0/8, fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # an untrusted peer's header is not read
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # the left part is what the caller wrote
        ("10.0.0.1", "198.51.100.1, 10.9.9.9", "198.51.100.1"),  # two proxies in a row
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.2"),
        ("::ffff:10.0.0.1", "2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8::1%eth0", "", "2001:db8::/64"),
        ("", "198.51.100.1", UNKNOWN),
    ],
)
def test_a_caller_is_the_peer_or_what_the_last_trusted_proxy_saw(
    peer: str, forwarded: str, caller: str
) -> None:
    assert PROXIED.of(peer, {"x-forwarded-for": forwarded}) == caller


def test_without_trusted_proxies_headers_are_ignored() -> None:
    assert Callers().of("10.0.0.1", {"x-forwarded-for": "198.51.100.1"}) == "10.0.0.1"
    assert not Callers().is_proxy("10.0.0.1")
    assert PROXIED.is_proxy("10.0.0.1")


def test_a_header_of_any_length_is_read_in_bounded_steps() -> None:
    hops = ",".join(["10.0.0.9"] * 100_000)
    assert PROXIED.of("10.0.0.1", {"x-forwarded-for": f"198.51.100.1,{hops}"}) == "10.0.0.9"


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "proxy.example", "10.0.0.1;10.0.0.2"])
def test_an_invalid_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        networks(text)
