"""Clients' identifiers: what is accepted, and what is ignored."""

from __future__ import annotations

import pytest

from service.contract.correlation import Trace, client_id_of, trace_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("header", ["a", "req-1.2:3_4", "x" * 64])
def test_a_suitable_request_id_is_kept(header: str) -> None:
    assert client_id_of(header) == header


@pytest.mark.parametrize("header", [None, "", "x" * 65, "a b", "a\nb", "a\n", "a|b", "é", "'"])
def test_any_other_request_id_is_ignored(header: str | None) -> None:
    assert client_id_of(header) == ""


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-00", False),
        (f" 00-{TRACE}-{PARENT}-03\t", True),
        (f"01-{TRACE}-{PARENT}-02-of-a-later-version", False),
    ],
)
def test_a_traceparent_gives_trace_parent_and_flag(header: str, sampled: bool) -> None:
    assert trace_of(header) == Trace(TRACE, PARENT, sampled)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01\n00-{TRACE}-{PARENT}-01",
    ],
)
def test_an_invalid_traceparent_is_ignored(header: str | None) -> None:
    assert trace_of(header) is None
