"""Who asks, and how much: keys, sessions, and the limits of a key, by a clock of the test."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from service.api_keys import ApiKeys, make
from service.callers import Callers, networks
from service.contract.causes import Denial
from service.contract.errors import Forbidden, LimitReached, ServiceError, Unauthorized
from service.http.identity import Caller, Identity, headers_of
from tests.fakes import Clock

ADDRESS = "203.0.113.7"
TOKEN = "a session"


def request(*headers: tuple[str, str], method: str = "POST", peer: str = ADDRESS) -> dict[str, Any]:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"method": method, "headers": [(b"host", b"page.example"), *raw], "client": (peer, 1)}


def cookie(token: str = TOKEN) -> tuple[str, str]:
    return ("cookie", f"other=1; ofa_page_1={token}")


class FakeSessions:
    cookie = "ofa_page_1"

    def admits(self, token: str | None) -> bool:
        return token == TOKEN


class Keyed:
    """An identity with one key of 10 requests per minute and 2 at once."""

    def __init__(self, folder: Path, clock: Clock, *, sessions: bool = False, per_minute: int = 10) -> None:
        self.key = make(folder / "keys", "shop", per_minute, 2)
        self.identity = Identity(
            ApiKeys(folder / "keys", clock=clock),
            sessions=FakeSessions() if sessions else None,
            callers=Callers(networks("10.0.0.0/8")),
            clock=clock,
        )

    def caller(self) -> Caller:
        return self.identity.identify(request(("x-api-key", self.key)))


@pytest.fixture
def keyed(tmp_path: Path, clock: Clock) -> Keyed:
    return Keyed(tmp_path, clock)


def denied(call: Callable[[], object]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        call()
    return caught.value


# ---- who -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("authorization", "Bearer {}"),
        ("authorization", "bearer {}"),
        ("authorization", "Bearer  {} "),
        ("x-api-key", "{}"),
        ("x-api-key", " {}"),
    ],
)
def test_a_key_names_its_caller(keyed: Keyed, name: str, form: str) -> None:
    caller = keyed.identity.identify(request((name, form.format(keyed.key))))
    assert (caller.name, caller.key and caller.key.per_minute) == ("shop", 10)


def test_the_same_key_twice_is_one_key_and_a_proxys_password_is_none(keyed: Keyed) -> None:
    both = (("x-api-key", keyed.key), ("authorization", f"Bearer {keyed.key}"))
    assert keyed.identity.identify(request(*both)).name == "shop"
    basic = (("x-api-key", keyed.key), ("authorization", "Basic dXNlcjpwYXNz"))
    assert keyed.identity.identify(request(*basic)).name == "shop"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], Denial.NO_KEY),
        ([("authorization", "Basic dXNlcjpwYXNz")], Denial.NO_KEY),
        ([("authorization", "{}")], Denial.NO_KEY),
        ([cookie()], Denial.NO_KEY),
        ([("x-api-key", "")], Denial.WRONG_KEY),
        ([("x-api-key", "shop")], Denial.WRONG_KEY),
        ([("x-api-key", "{}x")], Denial.WRONG_KEY),
        ([("x-api-key", "\xff\x00")], Denial.WRONG_KEY),
        ([("x-api-key", "x" * 100_000)], Denial.WRONG_KEY),
        ([("x-api-key", "{}"), ("x-api-key", "another")], Denial.WRONG_KEY),
        ([("x-api-key", "{}"), ("authorization", "Bearer another")], Denial.WRONG_KEY),
    ],
)
def test_without_the_key_there_is_no_caller(
    keyed: Keyed, headers: list[tuple[str, str]], code: Denial, caplog: pytest.LogCaptureFixture
) -> None:
    sent = request(*((name, value.format(keyed.key)) for name, value in headers))
    error = denied(lambda: keyed.identity.identify(sent))
    assert (type(error), error.code, error.http_status) == (Unauthorized, code, 401)
    challenge = headers_of(error)["www-authenticate"]
    assert challenge.startswith("Bearer ")
    assert ("invalid_token" in challenge) is (code == Denial.WRONG_KEY)
    assert keyed.key not in caplog.text
    assert f"CODE={code} | FROM={ADDRESS}" in caplog.text


def test_without_keys_and_login_everyone_is_an_address_without_limits() -> None:
    identity = Identity()
    assert not identity.required
    caller = identity.identify(request(("x-api-key", "any"), cookie()))
    assert caller == Caller(ADDRESS)
    with ExitStack() as held:
        for _ in range(100):
            held.enter_context(identity.admitted(caller))
            identity.count(caller, 32)


def test_denials_do_not_flood_the_log(keyed: Keyed, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(50):
        denied(lambda: keyed.identity.identify(request()))
    assert len(caplog.records) == 1


# ---- sessions ------------------------------------------------------------------------------------------


def test_a_session_of_the_page_stands_for_a_key(tmp_path: Path, clock: Clock) -> None:
    keyed = Keyed(tmp_path, clock, sessions=True)
    assert keyed.identity.identify(request(cookie())) == Caller(ADDRESS)
    assert keyed.caller().name == "shop"
    for headers in ([cookie("another")], [("cookie", "ofa_page_2=" + TOKEN)], [("cookie", ";=;")]):
        assert (
            denied(lambda headers=headers: keyed.identity.identify(request(*headers))).code == Denial.NO_KEY
        )  # type: ignore[misc]
    wrong = request(cookie(), ("x-api-key", "another"))
    assert denied(lambda: keyed.identity.identify(wrong)).code == Denial.WRONG_KEY


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://page.example", True),
        ("http://page.example:80", True),
        ("https://evil.example", False),
        ("https://page.example.evil.example", False),
        ("http://page.example:8080", False),
        ("null", False),
        ("", False),
    ],
)
def test_a_session_counts_only_for_pages_of_this_server(
    tmp_path: Path, clock: Clock, origin: str, allowed: bool
) -> None:
    identity = Keyed(tmp_path, clock, sessions=True).identity
    sent = request(cookie(), ("origin", origin))
    if allowed:
        assert identity.identify(sent) == Caller(ADDRESS)
    else:
        error = denied(lambda: identity.identify(sent))
        assert (type(error), error.code, error.http_status) == (Forbidden, Denial.CROSS_ORIGIN, 403)


def test_the_forwarded_host_counts_only_from_a_proxy(tmp_path: Path, clock: Clock) -> None:
    identity = Keyed(tmp_path, clock, sessions=True).identity
    sent = [cookie(), ("origin", "https://shop.example"), ("x-forwarded-host", "shop.example")]
    assert denied(lambda: identity.identify(request(*sent))).code == Denial.CROSS_ORIGIN
    sent.append(("x-forwarded-for", ADDRESS))
    assert identity.identify(request(*sent, peer="10.0.0.1")) == Caller(ADDRESS)


# ---- how much ------------------------------------------------------------------------------------------


def test_a_minute_holds_so_many_texts(keyed: Keyed, clock: Clock) -> None:
    identity, caller = keyed.identity, keyed.caller()
    identity.count(caller, 6)
    clock.move(20)
    identity.count(caller, 4)
    clock.move(10)
    error = denied(lambda: identity.count(caller))
    assert (type(error), error.code, error.http_status) == (LimitReached, Denial.RATE_LIMIT, 429)
    assert headers_of(error) == {"retry-after": "30"}
    assert headers_of(denied(lambda: identity.count(caller, 7))) == {"retry-after": "50"}
    assert headers_of(denied(lambda: identity.admitted(caller).__enter__())) == {"retry-after": "30"}
    clock.move(29)
    assert headers_of(denied(lambda: identity.count(caller, 6))) == {"retry-after": "1"}
    clock.move(1)
    identity.count(caller, 6)
    denied(lambda: identity.count(caller))


def test_retry_after_is_true(keyed: Keyed, clock: Clock) -> None:
    """After it, and not a second before, the same request fits."""
    identity, caller = keyed.identity, keyed.caller()
    for _ in range(10):
        identity.count(caller)
        clock.move(1.5)
    for texts in (1, 4, 9):
        wait = int(headers_of(denied(lambda texts=texts: identity.count(caller, texts)))["retry-after"])  # type: ignore[misc]
        clock.move(wait - 1.5)
        denied(lambda texts=texts: identity.count(caller, texts))  # type: ignore[misc]
        clock.move(1.5)
        identity.count(caller, texts)


def test_a_call_larger_than_a_whole_minute_is_not_worth_repeating(keyed: Keyed) -> None:
    error = denied(lambda: keyed.identity.count(keyed.caller(), 11))
    assert (type(error), error.code, error.http_status) == (Forbidden, Denial.TEXTS_OVER_LIMIT, 403)
    assert headers_of(error) == {}
    keyed.identity.count(keyed.caller(), 10)


def test_so_many_requests_run_at_once(keyed: Keyed) -> None:
    identity, caller = keyed.identity, keyed.caller()
    with identity.admitted(caller):
        with identity.admitted(caller):
            error = denied(lambda: identity.admitted(caller).__enter__())
            assert (type(error), error.code) == (LimitReached, Denial.CONCURRENT_LIMIT)
            assert int(headers_of(error)["retry-after"]) >= 1
        with identity.admitted(caller):
            pass
    with pytest.raises(KeyError), identity.admitted(caller):
        raise KeyError
    with identity.admitted(caller), identity.admitted(caller):
        pass
    assert identity._running == {}


def test_a_refused_request_does_not_stay_counted_as_running(keyed: Keyed) -> None:
    identity, caller = keyed.identity, keyed.caller()
    identity.count(caller, 10)
    for _ in range(5):
        error = denied(lambda: identity.admitted(caller).__enter__())
        assert error.code == Denial.RATE_LIMIT
    assert identity._running == {}


def test_each_key_has_its_own_limits_and_a_session_none(tmp_path: Path, clock: Clock) -> None:
    keyed = Keyed(tmp_path, clock, sessions=True)
    other = make(tmp_path / "keys", "lab", 3, 1)
    clock.move(2)
    keyed.identity.count(keyed.caller(), 10)
    lab = keyed.identity.identify(request(("x-api-key", other)))
    keyed.identity.count(lab, 3)
    assert denied(lambda: keyed.identity.count(lab)).code == Denial.RATE_LIMIT
    session = keyed.identity.identify(request(cookie()))
    for _ in range(100):
        keyed.identity.count(session)


def test_limits_are_logged_by_name(keyed: Keyed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    caller = keyed.caller()
    keyed.identity.count(caller, 10)
    for _ in range(20):
        denied(lambda: keyed.identity.count(caller))
    (line,) = (one.getMessage() for one in caplog.records if "LIMIT" in one.getMessage())
    assert line.startswith("API_KEY_LIMIT | CODE=rate_limit | KEY=shop")
    assert keyed.key not in caplog.text
