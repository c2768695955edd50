"""What happens between the program's start and its first proof of health: counts and order, never seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from lab.instances.instance import ROOT, START_SECONDS

# Serve the demo model; print a line of facts when the page is up and when the first probe has passed.
PROGRAM = """
import gc, json, sys
import web_app
from service.front import Front
from service.lifecycle import Supervisor

computed = []  # lengths of the attention biases

def fact(name):
    print(json.dumps({"name": name, "modules": sorted(sys.modules), "collects": gc.isenabled(),
                      "frozen": gc.get_freeze_count(), "biases": len(computed)}), flush=True)

def start(front, real=Front.start):
    real(front)
    fact("page")

def load(supervisor, real=Supervisor.load):
    from ofa.bias import BiasCache

    def compute(cache, length, real=BiasCache._compute):
        computed.append(length)
        real(cache, length)

    BiasCache._compute = compute
    return real(supervisor)

def probe_passed(supervisor, real=Supervisor.probe_passed):
    real(supervisor)
    fact("healthy")

Front.start, Supervisor.probe_passed = start, probe_passed
Supervisor.load = load
sys.exit(web_app.main(sys.argv[1:]))
"""
#: What libraries import if they are used, or if a new release of Gradio or torch begins to import it.
HEAVY = {"pandas.core", "matplotlib", "scipy", "sklearn", "sympy", "torch._dynamo", "torch._inductor"}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    run_dir = tmp_path_factory.mktemp("run")
    ports = ("--host", "127.0.0.1", "--port", "0", "--health-host", "127.0.0.1", "--health-port", "0")
    arguments = ("--model", "demo", "--device", "cpu", "--run-dir", str(run_dir), "--timeout", "60", *ports)
    command = [sys.executable, "-c", PROGRAM, *arguments]
    with (run_dir / "output").open("wb") as output:
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=output, text=True)
    assert child.stdout is not None
    try:
        found: dict[str, dict[str, Any]] = {}
        while "healthy" not in found:
            line = child.stdout.readline()
            assert line, (run_dir / "web_app.log").read_text(encoding="utf-8")
            if line.startswith("{"):
                found |= {(fact := json.loads(line))["name"]: fact}
    finally:
        child.terminate()
        child.communicate(timeout=START_SECONDS)
    return found


def test_the_page_is_up_before_torch_is_imported(facts: dict[str, dict[str, Any]]) -> None:
    """Both at once contend for the GIL."""
    assert "torch" not in facts["page"]["modules"]
    assert "torch" in facts["healthy"]["modules"]


def test_heavy_modules_that_serving_does_not_need_are_not_imported(facts: dict[str, dict[str, Any]]) -> None:
    """``pandas`` itself is a name that is executed at its first use."""
    assert HEAVY.isdisjoint(facts["healthy"]["modules"])
    assert "gradio" in facts["page"]["modules"]


def test_garbage_is_not_collected_while_the_page_is_imported_and_is_afterwards(
    facts: dict[str, dict[str, Any]],
) -> None:
    assert not facts["page"]["collects"]
    assert facts["healthy"]["collects"]
    assert facts["healthy"]["frozen"] > facts["page"]["frozen"] == 0


def test_the_first_verdict_computes_one_attention_bias(facts: dict[str, dict[str, Any]]) -> None:
    assert facts["healthy"]["biases"] == 1
