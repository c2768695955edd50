"""What the real process refuses at its start, and its exit codes and messages."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.instances.hub import Hub
from lab.instances.instance import ROOT, Instance
from lab.instances.ports import free_ports
from service.contract.causes import ExitCode
from service.settings import DEFAULT_MODEL, flag, options
from tests.inference.hostile import CASES, POINTER, copy

CONFIGURATION = 78
LOAD_FAILED = 1

Start = Callable[..., Instance]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demo model that the test damages."""
    return shutil.copytree(ROOT / "models" / "demo", tmp_path / "model")


def weights_of(folder: Path) -> Path:
    (weights,) = [
        path for path in folder.iterdir() if path.name in ("model.safetensors", "pytorch_model.bin")
    ]
    return weights


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "eighty"], "--port='eighty' is not allowed. Allowed: a whole number from 0 to 65535."),
        (["--device", "tpu"], "Allowed: auto, cpu, cuda, cuda:N."),
        (["--timeout", "nan"], "--timeout='nan' is not allowed."),
        (["--colour", "red"], "--colour"),
    ],
)
def test_a_wrong_flag_is_refused_at_once_and_says_what_is_allowed(
    start: Start, arguments: list[str], told: str
) -> None:
    instance = start("--model", "demo", *arguments)
    assert instance.exit_code() == CONFIGURATION
    assert told in instance.output
    assert "Traceback" not in instance.output


def test_a_wrong_variable_is_refused_by_its_own_name(start: Start) -> None:
    instance = start("--model", "demo", environment={"OFA_QUEUE_SIZE": "many"})
    assert instance.exit_code() == CONFIGURATION
    assert "OFA_QUEUE_SIZE='many' is not allowed." in instance.output


@pytest.mark.parametrize("program", ["web_app.py", "health_api.py"])
def test_help_names_every_flag_and_variable(start: Start, program: str) -> None:
    instance = start("--help", program=program)
    assert instance.exit_code() == 0
    said = instance.output
    missing = [name for name, option in options().items() if flag(name) not in said or option.env not in said]
    assert not missing
    assert DEFAULT_MODEL in "".join(said.split())


@pytest.mark.parametrize("taken", ["page", "health"])
def test_a_taken_port_is_named_and_the_other_is_closed(start: Start, taken: str) -> None:
    port, health_port = free_ports(2)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port if taken == "page" else health_port))
        stranger.listen()
        instance = start("--model", "demo", ports=(port, health_port))
        assert instance.exit_code() == ExitCode.PORT_TAKEN
    assert str(port if taken == "page" else health_port) in instance.output
    assert "Traceback" not in instance.output


def test_a_missing_folder_is_refused_without_a_retry(start: Start, tmp_path: Path) -> None:
    instance = start("--model", str(tmp_path / "nowhere"))
    assert instance.exit_code() == CONFIGURATION
    assert "FATAL" in instance.log
    assert str(tmp_path / "nowhere") in instance.log


def test_an_unsupported_configuration_is_refused_by_field_and_value(start: Start, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "use_ofasys": True}))
    instance = start("--model", str(folder))
    assert instance.exit_code() == CONFIGURATION
    assert "use_ofasys" in instance.log
    assert "Traceback" not in instance.output


def test_a_deeply_nested_configuration_is_refused_at_once(start: Start, folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"a":' * 100_000)
    instance = start("--model", str(folder))
    assert instance.exit_code() == CONFIGURATION
    assert "config.json" in instance.log
    assert instance.log.count("MODEL_LOADING") == 1
    assert "Traceback" not in instance.output


def test_git_lfs_pointers_are_named_with_a_remedy(start: Start, folder: Path) -> None:
    weights_of(folder).write_bytes(POINTER)
    instance = start("--model", str(folder))
    assert instance.exit_code() == CONFIGURATION
    assert "git lfs pull" in instance.log
    assert weights_of(folder).name in instance.log


@pytest.mark.parametrize("name", ["card-deep", "card-long-name"])
def test_a_bad_card_never_stops_the_model(start: Start, tmp_path: Path, name: str) -> None:
    folder = copy(tmp_path / "model")
    CASES[name].spoil(folder)
    instance = start("--model", str(folder))
    instance.wait_healthy()
    assert instance.log.count("MODEL_LOADING") == 1


def test_a_folder_without_weights_is_refused_by_the_missing_files(start: Start, folder: Path) -> None:
    weights_of(folder).unlink()
    instance = start("--model", str(folder))
    assert instance.exit_code() == CONFIGURATION
    assert "pytorch_model.bin" in instance.log


@pytest.mark.parametrize("harm", [pytest.param("cut", marks=pytest.mark.long), "overwritten"])
def test_damaged_local_weights_are_named_and_not_retried(start: Start, folder: Path, harm: str) -> None:
    """A local folder cannot be downloaded again; a model from the hub can."""
    weights = weights_of(folder)
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2] if harm == "cut" else b"\xff" * 4096 + data[4096:])
    instance = start("--model", str(folder))
    assert instance.exit_code() == CONFIGURATION
    assert "FATAL" in instance.log
    assert weights.name in instance.log
    assert instance.log.count("MODEL_LOADING") == 1


def test_an_unknown_hub_id_and_a_removed_variable(start: Start) -> None:
    """The id is refused without a retry; the variable is one warning and has no effect."""
    variables = {"OFA_TRIAL_PAUSE": "not a number"}
    with Hub() as hub:
        instance = start(
            *("--model", "nobody/nothing"), environment={"MODELSCOPE_ENDPOINT": hub.endpoint, **variables}
        )
        assert instance.exit_code() == CONFIGURATION
        assert hub.listings == 1
    assert "nobody/nothing" in instance.log
    assert instance.log.count("SETTING_REMOVED | NAME=OFA_TRIAL_PAUSE") == 1
    assert instance.log.count("SETTING_REMOVED") == 1


def test_a_hub_that_is_down_is_retried_and_the_exit_is_retriable(start: Start) -> None:
    (port,) = free_ports(1)
    instance = start(
        *("--model", "some/model", "--load-attempts", "2"),
        environment={"MODELSCOPE_ENDPOINT": f"http://127.0.0.1:{port}"},
    )
    assert instance.exit_code() == LOAD_FAILED
    assert "FATAL" in instance.log
