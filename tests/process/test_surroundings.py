"""The real process in unusual environments: locales, proxies, Kubernetes, failing disks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.instances.instance import ROOT, Instance

Start = Callable[..., Instance]
CONFIGURATION = 78

# ---- proxies and certificates ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param(
            {
                "all_proxy": "socks://127.0.0.1:9/",
                "no_proxy": "localhost,127.0.0.1,::1/128,fe80::/10",
                "SSL_CERT_FILE": "/gone/cacert.pem",
            },
            id="socks, no_proxy with networks, missing certificate",
        ),
        pytest.param({"ALL_PROXY": "socks5://127.0.0.1:9"}, id="socks5", marks=pytest.mark.long),
    ],
)
def test_no_variable_for_proxies_or_certificates_stops_the_page(
    start: Start, variables: dict[str, str], red_circle: bytes
) -> None:
    instance = start("--model", "demo", "--timeout", "60", environment=variables)
    instance.wait_healthy()
    instance.wait_for("the page", lambda: "SERVER=page" in instance.log)
    assert instance.judge(red_circle, "there is a red circle")["label"] == "Yes"


def test_variables_set_by_kubernetes_are_named_with_a_remedy(start: Start) -> None:
    instance = start("--model", "demo", environment={"OFA_PORT": "tcp://10.0.0.7:7860"})
    assert instance.exit_code() == CONFIGURATION
    assert "OFA_PORT='tcp://10.0.0.7:7860'" in instance.output
    assert "enableServiceLinks: false" in instance.output


# ---- locales -------------------------------------------------------------------------------------------

LOCALES = {"GBK": ("zh_CN", "GBK"), "Latin-1": ("de_DE", "ISO-8859-1"), "C": None}


@pytest.fixture(params=["GBK", pytest.param("Latin-1", marks=pytest.mark.long), "C"])
def locale(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Return variables that set the locale and disable Python's UTF-8 fallbacks."""
    aside = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
    made = LOCALES[request.param]
    if made is None:
        return {"LC_ALL": "C", **aside}
    if shutil.which("localedef") is None:
        pytest.skip("needs localedef")
    language, charset = made
    folder = tmp_path / "locales"
    folder.mkdir()
    command = ["localedef", "-i", language, "-f", charset, str(folder / f"{language}.{charset}")]
    if subprocess.run(command, capture_output=True, check=False).returncode > 1:
        pytest.skip(f"{language} in {charset} cannot be made here")
    return {"LC_ALL": f"{language}.{charset}", "LOCPATH": str(folder), **aside}


def test_the_service_runs_and_writes_utf_8_in_any_locale(
    start: Start, locale: dict[str, str], red_circle: bytes, tmp_path: Path
) -> None:
    run_dir = tmp_path / "目录 é"
    instance = start(
        *("--model", "demo", "--timeout", "60"), environment={**locale, "OFA_RUN_DIR": str(run_dir)}
    )
    instance.wait_healthy()
    log = run_dir / "web_app.log"
    instance.wait_for("the page", lambda: "SERVER=page" in log.read_text("utf-8"))
    assert instance.judge(red_circle, "there is a red circle … 红色")["reason"] is None
    assert instance.terminate() == 0
    assert "LOG_GAP" not in log.read_text("utf-8")
    instance.output_path.read_text("utf-8")
    assert "Traceback" not in instance.output


@pytest.mark.parametrize(
    "program",
    [
        ["web_app.py", "--help"],
        ["health_api.py", "--help"],
        ["-m", "doctor", "--offline", "--lang", "zh", "tests/doctor/logs/kill"],
    ],
    ids=" ".join,
)
def test_the_programs_print_utf_8_in_any_locale(locale: dict[str, str], program: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *program], cwd=ROOT, env={**os.environ, **locale}, capture_output=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr  # 1: the doctor found something
    assert done.stderr == b""
    said = done.stdout.decode("utf-8")
    assert ("…" in said) != ("诊断" in said or "进程" in said)


def test_unencodable_characters_are_replaced(locale: dict[str, str]) -> None:
    environment = {**os.environ, **locale, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "doctor", "--offline", "--lang", "zh", "tests/doctor/logs/kill"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert b"?" in done.stdout


# ---- unwritable run directories -------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root to mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(mounted.stderr.decode())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def told(instance: Instance) -> dict[str, object]:
    answer: dict[str, object] = json.loads(instance.get("/health")[1])
    return answer


@pytest.mark.parametrize("before", ["nothing", "a log of another run"])
def test_a_read_only_run_directory_is_refused_at_the_first_start(
    start: Start, disk: Path, before: str
) -> None:
    if before != "nothing":
        for name in ("web_app.log", "web_app.lock"):
            (disk / name).write_text("of another run\n")
    remount(disk, "ro")
    instance = start("--model", "demo", program="health_api.py", environment={"OFA_RUN_DIR": str(disk)})
    assert instance.exit_code() == CONFIGURATION
    assert "(run_dir_unwritable)" in instance.output
    assert "Traceback" not in instance.output


def test_a_run_directory_that_turns_read_only_is_used_again_later(start: Start, disk: Path) -> None:
    remount(disk, "ro")
    instance = start(
        *("--model", "demo"),
        program="health_api.py",
        environment={"OFA_RUN_DIR": str(disk), "OFA_RESTARTED": "1"},
    )
    instance.wait_healthy()
    answer = told(instance)
    assert answer["log_failing"] == "EROFS"
    assert int(str(answer["log_lines_lost"])) > 0
    assert "MODEL_LOADED" in instance.output, "the console has what the file has not"
    lost = [
        line for line in instance.get("/metrics")[1].splitlines() if line.startswith("ofa_log_lines_lost")
    ]
    assert float(lost[0].split()[1]) > 0
    remount(disk, "rw")
    assert instance.terminate() == 0
    assert " | LOG_GAP | LOST=" in (disk / "web_app.log").read_text()


def test_the_service_starts_on_a_full_disk(start: Start, disk: Path) -> None:
    (disk / "ballast").write_bytes(b"x" * 60_000)
    with pytest.raises(OSError, match="No space"), (disk / "more").open("wb") as more:
        more.write(b"x" * 60_000)
        more.flush()
    instance = start("--model", "demo", program="health_api.py", environment={"OFA_RUN_DIR": str(disk)})
    instance.wait_healthy()
    assert told(instance)["log_failing"] == "ENOSPC"
    assert instance.terminate() == 0
    assert "MODEL_LOADED" in instance.output
