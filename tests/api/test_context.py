"""What is known of a request before its body is read."""

from __future__ import annotations

import time

from api.context import SPENT, Context, attach
from service.callers import Callers


def attached(**more: object) -> Context:
    scope = {"type": "http", "headers": [(SPENT.encode(), b"9")], "client": ("192.0.2.7", 1), **more}
    return attach(scope, Callers())


def test_time_spent_elsewhere_counts_and_no_client_can_claim_it() -> None:
    now = time.monotonic()
    assert attached().read() >= now
    assert attached(extensions={}).arrived >= now
    waited = attached(extensions={SPENT: 9.0})
    assert now - 9 <= waited.arrived <= waited.read() <= time.monotonic() - 9
