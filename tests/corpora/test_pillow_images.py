"""Pillow's own test images, about a thousand unusual and damaged files, through the API and the command line.

Both must agree on each file: the same verdict or the same code. The service stays up, logs no error of its
own, and answers the next request. pip downloads Pillow's source distribution.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest

from lab.instances.instance import ROOT, Instance
from service.contract.causes import InputCode
from tests.corpora.asking import judge

pytestmark = pytest.mark.long

TEXT = "there is a picture"
FEWEST = 900
CLOSE = 1e-6


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every file of Tests/images."""
    folder = tmp_path_factory.mktemp("pillow")
    source = f"pillow=={version('pillow')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--no-binary", "pillow", source, "-d", str(folder)], check=True, timeout=600)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    found = sorted(path for path in folder.glob("*/Tests/images/**/*") if path.is_file())
    assert len(found) >= FEWEST
    return found


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    run_dir = tmp_path_factory.mktemp("service")
    with Instance(run_dir, "--model", "demo", "--timeout", "120", "--queue-size", "64") as running:
        running.wait_healthy()
        yield running


@pytest.fixture(scope="module")
def told_by_command_line(images: list[Path]) -> dict[str, dict[str, object]]:
    lines = "".join(json.dumps({"id": path.name, "image": str(path), "text": TEXT}) + "\n" for path in images)
    done = subprocess.run(
        [sys.executable, "-m", "ofa", "--model", "demo"],
        cwd=ROOT,
        input=lines,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["line"] for answer in answers] == list(range(1, len(images) + 1))
    return {str(answer["image"]): answer for answer in answers}


def test_both_take_every_file_and_agree(
    images: list[Path], instance: Instance, told_by_command_line: dict[str, dict[str, object]]
) -> None:
    def ask(path: Path) -> dict[str, object]:
        return judge(instance.page, path, TEXT)

    with ThreadPoolExecutor(4) as pool:
        told_by_api = dict(zip(images, pool.map(ask, images), strict=True))
    differing = []
    for path, answer in told_by_api.items():
        line = told_by_command_line[str(path)]
        if answer.get("code") or line.get("code"):
            same = answer.get("code") == line.get("code")
        else:
            scores, others = answer["scores"], line["scores"]
            assert isinstance(scores, dict)
            assert isinstance(others, dict)
            same = all(abs(scores[name] - others[name]) <= CLOSE for name in scores)
        if not same:
            differing.append((path.name, answer.get("code"), line.get("code")))
    assert differing == []
    codes = {str(answer["code"]) for answer in told_by_api.values() if answer.get("code")}
    assert codes <= set(InputCode)
    verdicts = sum("scores" in answer for answer in told_by_api.values())
    assert verdicts > FEWEST / 3, "most of a few formats can be read"
    assert instance.process.poll() is None
    errors = [line for line in instance.log.splitlines() if "| ERROR " in line or "| FATAL " in line]
    assert errors == []
    assert "Traceback" not in instance.output
    assert instance.get("/health/simple")[0] == 200
