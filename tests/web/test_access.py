"""Who is let in to the operations tab, for how long, and how often one may guess."""

from __future__ import annotations

import pytest

from page.access import (
    CALLERS,
    GUESS_SECONDS,
    IDLE_SECONDS,
    SESSION_SECONDS,
    SESSIONS,
    WRONG_IN_ALL,
    WRONG_PER_CALLER,
    Access,
    Caller,
    TooManyGuesses,
    WrongPassword,
    is_loopback,
)
from page.operations import access_of
from service.settings import Settings
from tests.fakes import Clock

PASSWORD = "open sesame"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(clock: Clock) -> Access:
    return Access(PASSWORD, clock=clock)


def caller(token: str | None = None, address: str = "203.0.113.7", **headers: str) -> Caller:
    return Caller(address, {name.replace("_", "-"): value for name, value in headers.items()}, token)


def guess(access: Access, address: str = "203.0.113.7") -> None:
    with pytest.raises(WrongPassword):
        access.log_in("a guess", address)


def test_the_password_begins_a_session_that_can_be_ended(access: Access) -> None:
    token = access.log_in(PASSWORD, "203.0.113.7")
    assert access.admits(caller(token))
    assert not access.admits(caller(token[:-1]))
    assert not access.admits(caller())
    access.log_out(token)
    assert not access.admits(caller(token))


def test_with_a_password_no_address_is_let_in_without_it(access: Access) -> None:
    assert not access.admits(caller(address="127.0.0.1", host="localhost:7860"))


def test_a_session_ends_when_it_is_not_used_and_in_any_case_after_a_while(
    access: Access, clock: Clock
) -> None:
    token = access.log_in(PASSWORD, "203.0.113.7")
    clock.move(IDLE_SECONDS + 1)
    assert not access.admits(caller(token))
    token, began = access.log_in(PASSWORD, "203.0.113.7"), clock.now
    while clock.now - began <= SESSION_SECONDS - IDLE_SECONDS:
        clock.move(IDLE_SECONDS / 2)
        assert access.admits(caller(token))
    clock.move(IDLE_SECONDS / 2)
    assert access.admits(caller(token))
    clock.move(IDLE_SECONDS)
    assert not access.admits(caller(token))


def test_sessions_are_bounded_and_the_oldest_goes(access: Access) -> None:
    tokens = [access.log_in(PASSWORD, "203.0.113.7") for _ in range(SESSIONS + 1)]
    assert [access.admits(caller(token)) for token in tokens] == [False] + [True] * SESSIONS


def test_after_some_guesses_the_right_password_is_not_looked_at_either(access: Access, clock: Clock) -> None:
    for _ in range(WRONG_PER_CALLER):
        guess(access)
    with pytest.raises(TooManyGuesses) as caught:
        access.log_in(PASSWORD, "203.0.113.7")
    assert caught.value.seconds == GUESS_SECONDS
    assert access.log_in(PASSWORD, "203.0.113.8"), "another address is another matter"
    clock.move(GUESS_SECONDS)
    assert access.log_in(PASSWORD, "203.0.113.7")


def test_guesses_from_everywhere_are_counted_together(access: Access, clock: Clock) -> None:
    token = access.log_in(PASSWORD, "203.0.113.7")
    for number in range(WRONG_IN_ALL):
        guess(access, f"198.51.100.{number}")
    with pytest.raises(TooManyGuesses):
        access.log_in(PASSWORD, "203.0.113.9")
    assert access.admits(caller(token)), "who is in stays in"


def test_one_ipv6_network_is_one_caller(access: Access) -> None:
    for number in range(WRONG_PER_CALLER):
        guess(access, f"2001:db8:0:1::{number}")
    with pytest.raises(TooManyGuesses):
        access.log_in(PASSWORD, "2001:db8:0:1:ffff::1")
    guess(access, "2001:db8:0:2::1")


def test_callers_are_remembered_within_bounds(access: Access, clock: Clock) -> None:
    for number in range(2 * CALLERS):
        clock.move(GUESS_SECONDS / WRONG_IN_ALL)
        guess(access, f"10.1.{number // 256}.{number % 256}")
    assert len(access._wrong) == CALLERS


@pytest.mark.parametrize(
    ("address", "headers", "expected"),
    [
        ("127.0.0.1", {"host": "127.0.0.1:7860"}, True),
        ("127.0.0.1", {"host": "localhost"}, True),
        ("::1", {"host": "[::1]:7860"}, True),
        ("203.0.113.7", {"host": "127.0.0.1:7860"}, False),
        ("127.0.0.1", {"host": "service.example:7860"}, False),
        ("127.0.0.1", {"host": "localhost.service.example"}, False),
        ("127.0.0.1", {"host": "127.0.0.1:7860", "x_forwarded_for": "203.0.113.7"}, False),
        ("127.0.0.1", {"host": "127.0.0.1:7860", "via": "1.1 proxy"}, False),
        ("127.0.0.1", {}, False),
    ],
)
def test_without_a_password_only_direct_callers_of_this_machine_are_let_in(
    address: str, headers: dict[str, str], expected: bool
) -> None:
    assert Access(None).admits(caller(address=address, **headers)) is expected


def test_without_a_password_there_is_nothing_to_log_in_with() -> None:
    with pytest.raises(WrongPassword):
        Access(None).log_in("", "127.0.0.1")


@pytest.mark.parametrize(
    ("flags", "password", "there", "asks"),
    [
        (["--host", "0.0.0.0"], "", False, False),
        (["--host", "203.0.113.7"], "", False, False),
        (["--host", "some.name.example"], "", False, False),
        (["--host", "::"], "", False, False),
        (["--host", "0.0.0.0"], PASSWORD, True, True),
        (["--host", "127.0.0.1"], "", True, False),
        (["--host", "127.0.0.1"], PASSWORD, True, True),
        (["--host", "127.0.0.1", "--ops", "off"], "", False, False),
        (["--host", "127.0.0.1", "--ops", "off"], PASSWORD, False, False),
        ([], "", False, False),
    ],
)
def test_on_a_public_address_the_tab_is_there_with_a_password_alone(
    flags: list[str], password: str, there: bool, asks: bool
) -> None:
    access = access_of(Settings.from_args(flags, {"OFA_OPS_PASSWORD": password}))
    assert (access is not None) is there
    assert access is None or access.asks_password is asks


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.53", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("127.0.0.1.example", False),
    ],
)
def test_loopback_is_what_nobody_else_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
