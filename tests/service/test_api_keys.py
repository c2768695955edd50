"""The file of API keys: its form, who may read it, reloading, and the command that makes keys."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.instances.instance import ROOT
from service import api_keys
from service.api_keys import CHECK_SECONDS, MAX_KEYS, ApiKeys, make, name_of, read
from service.contract.errors import SettingsError
from tests.fakes import Clock

SECRET = "ofa_a-key-of-the-tests"
HASH = hashlib.sha256(SECRET.encode()).hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "keys", f"shop {HASH} 60 4\n")


def written(path: Path, content: str, mode: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


def refused(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        read(path)
    assert (caught.value.code, caught.value.exit_code) == ("api_keys", 78)
    assert HASH not in caught.value.message
    return caught.value.message


# ---- the form ------------------------------------------------------------------------------------------


def test_a_line_is_a_name_a_hash_and_two_limits(tmp_path: Path) -> None:
    content = f"# by whom\n\n shop\t{HASH.upper()}  60 4\r\nlab.2 {OTHER} 6000 32"
    keys = read(written(tmp_path / "keys", content))
    assert [(key.name, key.per_minute, key.concurrent) for key in keys] == [
        ("shop", 60, 4),
        ("lab.2", 6000, 32),
    ]
    assert keys[0].digest.hex() == HASH


def test_only_the_word_at_the_end_makes_a_key_trusted(tmp_path: Path) -> None:
    made = make(tmp_path / "keys", "front", 90_000, 500, trusted=True)
    make(tmp_path / "keys", "shop")
    front, shop = read(tmp_path / "keys")
    assert (front.trusted, shop.trusted) == (True, False)
    assert ApiKeys(tmp_path / "keys").find(made) == front
    assert name_of("203.0.113.7@front") == name_of("front") == "front"
    assert name_of("203.0.113.7") is name_of("fe80::/64") is None


@pytest.mark.parametrize(
    "line",
    [
        "shop",
        f"shop {HASH} 60 4 Trusted",
        f"shop {HASH} 60 4 trusted trusted",
        f"shop {HASH} trusted",
        f"shop {HASH}",
        f"shop {HASH} 60",
        f"shop {HASH} 60 4 5",
        f"shop {HASH[1:]} 60 4",
        f"shop {SECRET} 60 4",
        f"shop {HASH} 0 4",
        f"shop {HASH} 60 0",
        f"shop {HASH} -1 4",
        f"shop {HASH} 60 4.5",
        f"shop {HASH} 100000 4",
        f"10.0.0.1 {HASH} 60 4",  # would be an address's identity
        f"fe80::/64 {HASH} 60 4",
        f"{'x' * 65} {HASH} 60 4",
        f"sh\xf6p {HASH} 60 4",
        f"shop {HASH} \u0661 4",
        "\0" * 100,
    ],
)
def test_a_line_of_another_form_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    message = refused(written(tmp_path / "keys", f"lab {OTHER} 60 4\n{line}\n"))
    assert "Line 2 " in message
    assert SECRET not in message


@pytest.mark.parametrize(
    "content",
    [
        "",
        "# nothing\n",
        f"shop {HASH} 60 4\nshop {OTHER} 60 4\n",
        f"shop {HASH} 60 4\nlab {HASH} 60 4\n",
        "".join(f"k{number} {number:064x} 1 1\n" for number in range(MAX_KEYS + 1)),
        "#" * (api_keys.MAX_BYTES + 1),
    ],
    ids=["empty", "comments", "a name twice", "a key twice", "too many", "too large"],
)
def test_a_file_that_cannot_be_right_is_refused(tmp_path: Path, content: str) -> None:
    refused(written(tmp_path / "keys", content))


# ---- who may read it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602, 0o620])
def test_a_file_that_others_can_read_or_write_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    refused(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_roots_file_may_be_read_by_the_group_as_kubernetes_mounts_a_secret(file: Path) -> None:
    """A child process gives up root, as the service in a container does."""
    file.chmod(0o440)
    file.parent.chmod(0o711)
    descriptor = os.open(file.parent, os.O_PATH)
    script = (
        "import os, sys; from pathlib import Path; from service.api_keys import read; "
        f"os.fchdir({descriptor}); os.setgroups([0]); os.setgid(65534); os.setuid(65534); read(Path('keys'))"
    )
    try:
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, pass_fds=[descriptor])
    finally:
        os.close(descriptor)
    assert done.returncode == 0


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "keys"
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path, 0o600)
    refused(path)


# ---- reloading -----------------------------------------------------------------------------------------


def test_a_changed_file_is_reloaded(file: Path, clock: Clock) -> None:
    keys = ApiKeys(file, clock=clock)
    assert keys.find(SECRET) is not None
    written(file, f"lab {OTHER} 60 4\n")
    clock.move(CHECK_SECONDS)
    assert keys.find(SECRET) is None
    found = keys.find("another")
    assert found is not None
    assert found.name == "lab"


@pytest.mark.parametrize("fault", ["missing", "malformed", "readable"])
def test_the_old_keys_are_kept_while_the_file_is_wrong(
    file: Path, clock: Clock, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    keys = ApiKeys(file, clock=clock)
    if fault == "missing":
        file.rename(file.with_name("away"))
    elif fault == "malformed":
        file.write_text(f"shop {HASH}\n")
    else:
        file.chmod(0o644)
    for _ in range(3):
        clock.move(CHECK_SECONDS)
        assert keys.find(SECRET) is not None
    assert keys.outdated
    events = [record.getMessage().split(" | ")[:2] for record in caplog.records]
    assert events == [["API_KEYS", "OUTCOME=loaded"], ["API_KEYS", "OUTCOME=kept_old"]], "one line per change"
    assert HASH not in caplog.text
    file.unlink(missing_ok=True)
    written(file, f"lab {OTHER} 60 4\n")
    clock.move(CHECK_SECONDS)
    assert not keys.outdated
    assert keys.find(SECRET) is None


def test_a_file_replaced_through_a_link_is_reloaded(tmp_path: Path, clock: Clock) -> None:
    """Kubernetes replaces the folder behind a link."""
    for name, line in (("one", f"shop {HASH} 60 4\n"), ("two", f"lab {OTHER} 60 4\n")):
        (tmp_path / name).mkdir()
        written(tmp_path / name / "keys", line)
    link = tmp_path / "data"
    link.symlink_to("one")
    keys = ApiKeys(link / "keys", clock=clock)
    link.unlink()
    link.symlink_to("two")
    clock.move(CHECK_SECONDS)
    assert keys.find(SECRET) is None
    assert keys.find("another") is not None


@pytest.mark.parametrize("secret", ["", HASH, SECRET[:-1], SECRET + " ", "shop", "\ud800", "x" * 100_000])
def test_only_the_key_is_the_key(file: Path, secret: str) -> None:
    keys = ApiKeys(file)
    assert keys.find(secret) is None
    assert keys.find(SECRET) is not None


# ---- making keys ---------------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.api_keys", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_the_command_makes_the_file_and_prints_the_key_once(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first = command("make", "shop", "--file", str(path))
    second = command("make", "lab", "--file", str(path), "--per-minute", "6000", "--concurrent", "8")
    assert (first.returncode, second.returncode) == (0, 0)
    assert path.stat().st_mode & 0o777 == 0o600
    keys = ApiKeys(path)
    found = [keys.find(done.stdout.strip()) for done in (first, second)]
    assert [(key.name, key.per_minute, key.concurrent) for key in found if key] == [
        ("shop", api_keys.PER_MINUTE, api_keys.CONCURRENT),
        ("lab", 6000, 8),
    ]
    assert first.stdout.strip() not in path.read_text()
    assert first.stderr == second.stderr == ""


def test_a_key_is_appended_after_a_last_line_without_an_end(file: Path) -> None:
    file.write_text(file.read_text().rstrip("\n"))
    secret = make(file, "lab")
    assert [key.name for key in read(file)] == ["shop", "lab"]
    assert ApiKeys(file).find(secret) is not None


@pytest.mark.parametrize(
    ("name", "limits"),
    [("shop", ()), ("1", ()), ("a b", ()), ("", ()), ("lab", ("--per-minute", "0"))],
)
def test_a_key_that_cannot_be_added_changes_nothing(file: Path, name: str, limits: tuple[str, ...]) -> None:
    before = file.read_text()
    done = command("make", name, "--file", str(file), *limits)
    assert done.returncode == 78
    assert done.stdout == ""
    assert "(api_keys)" in done.stderr
    assert file.read_text() == before


@pytest.mark.parametrize("content", ["", "not a line\n"])
def test_no_key_is_added_to_a_file_that_is_refused(tmp_path: Path, content: str) -> None:
    path = written(tmp_path / "keys", content, 0o644)
    with pytest.raises(SettingsError):
        make(path, "shop")
    path.chmod(0o600)
    if content:
        with pytest.raises(SettingsError):
            make(path, "shop")
    assert path.read_text() == content
