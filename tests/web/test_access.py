"""Access to the operations tab: password, sessions, limits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from page.access import (
    CALLERS,
    GUESS_SECONDS,
    IDLE_SECONDS,
    MAX_SESSIONS,
    PASSWORD_FILE,
    SESSION_SECONDS,
    WRONG_PER_CALLER,
    Access,
    TooManyGuesses,
    WrongPassword,
    generated_password,
)
from page.operations.routes import access_of
from service.settings import Settings
from tests.fakes import Clock

PASSWORD = "open sesame"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(clock: Clock) -> Access:
    return Access(PASSWORD, clock=clock)


def guess(access: Access, address: str = "203.0.113.7") -> None:
    with pytest.raises(WrongPassword):
        access.log_in("a guess", address)


def test_the_password_begins_a_session_and_a_logout_ends_it(access: Access) -> None:
    token = access.log_in(PASSWORD, "203.0.113.7")
    assert access.admits(token)
    assert not access.admits(token[:-1])
    assert not access.admits(None)
    access.log_out(token)
    assert not access.admits(token)


def test_a_session_expires_when_idle_and_at_its_maximum_age(access: Access, clock: Clock) -> None:
    token = access.log_in(PASSWORD, "203.0.113.7")
    clock.move(IDLE_SECONDS + 1)
    assert not access.admits(token)
    token, began = access.log_in(PASSWORD, "203.0.113.7"), clock.now
    while clock.now - began <= SESSION_SECONDS - IDLE_SECONDS:
        clock.move(IDLE_SECONDS / 2)
        assert access.admits(token)
    clock.move(IDLE_SECONDS / 2)
    assert access.admits(token)
    clock.move(IDLE_SECONDS)
    assert not access.admits(token)


def test_sessions_are_bounded_and_the_oldest_goes(access: Access) -> None:
    tokens = [access.log_in(PASSWORD, "203.0.113.7") for _ in range(MAX_SESSIONS + 1)]
    assert [access.admits(token) for token in tokens] == [False] + [True] * MAX_SESSIONS


def test_wrong_passwords_block_even_the_right_one_for_a_while(access: Access, clock: Clock) -> None:
    for _ in range(WRONG_PER_CALLER):
        guess(access)
    with pytest.raises(TooManyGuesses) as caught:
        access.log_in(PASSWORD, "203.0.113.7")
    assert caught.value.seconds == GUESS_SECONDS
    assert access.log_in(PASSWORD, "203.0.113.8"), "another caller is not limited"
    clock.move(GUESS_SECONDS)
    assert access.log_in(PASSWORD, "203.0.113.7")


def test_wrong_passwords_of_others_lock_nobody_else_out(access: Access, clock: Clock) -> None:
    """However many callers send them, for however long."""
    token = access.log_in(PASSWORD, "203.0.113.7")
    for number in range(10 * CALLERS):
        clock.move(GUESS_SECONDS / (10 * CALLERS))
        guess(access, f"198.51.100.{number}")
    assert access.log_in(PASSWORD, "203.0.113.9")
    assert access.admits(token), "existing sessions stay valid"


def test_the_table_of_callers_is_bounded(access: Access, clock: Clock) -> None:
    for number in range(2 * CALLERS):
        guess(access, f"10.1.{number // 256}.{number % 256}")
    assert len(access._wrong) == CALLERS


# ---- the generated password --------------------------------------------------------------------------


def test_a_password_is_generated_once_and_is_private(tmp_path: Path) -> None:
    password, path = generated_password(tmp_path / "run")
    assert path == tmp_path / "run" / PASSWORD_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(password) >= 32
    assert generated_password(tmp_path / "run") == (password, path)
    assert [entry.name for entry in path.parent.iterdir()] == [PASSWORD_FILE]


def _wide(path: Path) -> None:
    path.chmod(0o640)


def _linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _emptied(path: Path) -> None:
    path.write_text("")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize("change", [_wide, _linked, _emptied, _fifo])
def test_a_password_that_others_may_know_is_replaced(tmp_path: Path, change: Callable[[Path], None]) -> None:
    before, path = generated_password(tmp_path)
    change(path)
    after, _ = generated_password(tmp_path)
    assert after != before
    assert path.is_file()
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("flags", "there"),
    [
        (["--host", "0.0.0.0"], True),
        (["--host", "127.0.0.1"], True),
        (["--host", "127.0.0.1", "--ops", "off"], False),
    ],
)
def test_the_tab_has_a_password_wherever_the_page_listens(
    tmp_path: Path, flags: list[str], there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    access = access_of(Settings.from_args(["--run-dir", str(tmp_path), *flags], {}))
    assert (access is not None) is there
    assert (tmp_path / PASSWORD_FILE).exists() is there
    if access is not None:
        password = (tmp_path / PASSWORD_FILE).read_text().strip()
        assert access.log_in(password, "203.0.113.7")
        assert str(tmp_path / PASSWORD_FILE) in caplog.text
        assert password not in caplog.text


def test_a_configured_password_is_the_only_one(tmp_path: Path) -> None:
    environment = {"OFA_OPS_PASSWORD": PASSWORD}
    access = access_of(Settings.from_args(["--run-dir", str(tmp_path)], environment))
    assert access is not None
    assert access.log_in(PASSWORD, "203.0.113.7")
    assert not (tmp_path / PASSWORD_FILE).exists()


def test_without_a_writable_password_file_the_tab_is_off(tmp_path: Path) -> None:
    (tmp_path / PASSWORD_FILE).mkdir()
    assert access_of(Settings.from_args(["--run-dir", str(tmp_path)], {})) is None
