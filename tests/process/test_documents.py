"""Runs the commands and programs of README.md and docs/api.md, as written, against a real process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.instances.instance import ROOT, Instance


def snippet(language: str, containing: str, document: str = "README.md") -> str:
    """Return the document's only block in ``language`` that contains these words."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if containing in block]
    return str(block)


def run(command: list[str], program: str, **environment: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*command, program],
        cwd=ROOT,
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("document", "containing", "labels"),
    [
        ("README.md", "v1/judge", ["Yes"]),
        ("README.zh-CN.md", "v1/judge", ["Yes"]),
        ("docs/api.md", "text=there", ["Yes", "No"]),
        ("docs/api.md", "base64 -w", ["Yes"]),
    ],
)
def test_one_curl_gets_an_answer(
    running_service: Instance, document: str, containing: str, labels: list[str]
) -> None:
    script = snippet("bash", containing, document).replace("localhost:7860", running_service.page)
    answer = json.loads(run(["bash", "-euc"], script))
    assert [(one["label"], one["reason"]) for one in answer["results"]] == [(one, None) for one in labels]


def test_gradio_s_client_gets_an_answer(running_service: Instance) -> None:
    script = snippet("python", "gradio_client", "docs/api.md").replace(
        "http://localhost:7860", running_service.page
    )
    said = run([sys.executable, "-c"], script)
    assert "'label': 'Yes'" in said
    assert "'reason': None" in said


def test_the_names_that_scripts_import_answer_without_a_server(tmp_path: Path) -> None:
    said = run([sys.executable, "-c"], snippet("python", "web_app"), OFA_RUN_DIR=str(tmp_path))
    answer, details = said.splitlines()[-2:]
    assert "'label': 'Yes'" in answer
    assert "'model': 'loaded', 'inference': 'success'" in details


def test_a_script_may_end_while_the_model_computes(tmp_path: Path) -> None:
    program = """
import web_app
web_app.init_model()
submit = web_app._shared().submit
futures = [submit("models/demo/examples/existence.png", f"there are {n} circles") for n in range(20)]
futures[0].result()
"""
    run([sys.executable, "-c"], program, OFA_MODEL="demo", OFA_RUN_DIR=str(tmp_path))


def test_the_readme_s_health_check_works(running_service: Instance) -> None:
    script = snippet("bash", "curl -s localhost:8000/health")
    said = run(["bash", "-euc"], script.replace("localhost:8000", running_service.health))
    assert json.loads(said)["status"] == "healthy"


def test_the_command_line_judges_the_example() -> None:
    script = snippet("bash", "python -m ofa --model demo --image").replace(".venv/bin/python", sys.executable)
    assert json.loads(run(["bash", "-euc"], script))["label"] == "Yes"
