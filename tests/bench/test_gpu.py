"""The GPU check also runs on a CPU, in its smallest form, and keeps partial results."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from PIL import Image

from lab import ROOT
from lab.bench.gpu import __main__ as command_line
from lab.bench.gpu.__main__ import STEPS, main
from lab.bench.gpu.accelerated import ACCELERATED, accelerated, agreement
from lab.bench.gpu.faults import _ended
from lab.bench.gpu.precision import MODES
from lab.bench.gpu.speed import EMULATED, TARGETS, modelscopes_way
from lab.bench.sides import Subject
from lab.parity.folders import SMALL, write_folder
from ofa.model import EntailmentModel
from ofa.pair import Pair
from service.contract.causes import ExitCode

NEEDS_A_CARD = {"needs": "a card"}
#: Packages that a rented machine's Python has.
PRESENT = {"torch", "numpy", "pillow", "tokenizers", "safetensors", "tqdm", "psutil"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("tiny"), SMALL["defaults-resnet18"])


def kept(out: Path) -> dict[str, Any]:
    path = out / "results.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


@pytest.mark.long  # the next test runs two of the steps
def test_every_step_writes_its_figures_before_the_next(tiny: Path, tmp_path: Path) -> None:
    flags = ["--quick", "--device", "cpu", "--model", str(tiny), "--out", str(tmp_path)]
    with subprocess.Popen([sys.executable, "-m", "lab.bench.gpu", *flags], cwd=ROOT) as check:
        for done, following in zip(STEPS, list(STEPS)[1:], strict=False):
            while following not in (results := kept(tmp_path)):
                assert check.poll() is None
                time.sleep(0.02)
            assert results[done]["state"] == "done"
    assert check.returncode == 0
    results = kept(tmp_path)
    assert list(results) == list(STEPS)
    sets = ["defaults-resnet18", "demo", "large shape"]
    assert [list(results["precision"][mode]["configurations"]) for mode in MODES] == [sets] * len(MODES)
    assert [level["callers"] for level in results["speed"]["levels"]] == [1, 8, 64]
    assert results["speed"]["latency"]["sides"].keys() >= {EMULATED, ACCELERATED}
    assert [level["callers"] for level in results["speed"]["accelerated_levels"]] == [1, 8, 64]
    assert results["speed"]["agreement"]["as_promised"]
    assert results["speed"]["targets"][ACCELERATED].keys() == TARGETS.keys()
    faults = results["faults"]
    assert faults["request"]["first"]["answers"][0][1] == "cpu"
    assert (faults["stopped"]["exit_code"], faults["stopped"]["as_promised"]) == (0, True)
    assert [faults[part] for part in ("crowded", "full", "assert")] == [NEEDS_A_CARD] * 3


def test_a_failed_or_late_step_keeps_its_figures_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(command_line.LIMITS, "speed", 0.0)
    absent = str(tmp_path / "absent")
    assert main(["--quick", "--device", "cpu", "--model", absent, "--out", str(tmp_path)]) == 1
    results = kept(tmp_path)
    assert {name: step["state"] for name, step in results.items()} == {
        "precision": "failed",
        "speed": "cut",
        "faults": "done",
    }
    assert list(results["precision"]["bf16"]["configurations"]) == ["defaults-resnet18", "demo"]
    assert results["precision"]["error"]
    assert [results["faults"][part]["as_promised"] for part in ("request", "stopped")] == [False, False]


def subject_on_cpu(folder: Path, scratch: Path) -> Subject:
    return Subject(folder, folder, scratch, "cpu", True, scratch, None, pairs=8, rounds=1, closer_than=0.0)


def test_the_agreement_fails_without_recordings_or_with_other_answers(tiny: Path, tmp_path: Path) -> None:
    subject = subject_on_cpu(tiny, tmp_path)
    model, backend = accelerated(subject)
    found = agreement(subject, model, backend)
    assert found["as_promised"], found
    assert found["recordings"] > 0
    backend.recordings = 0
    assert not agreement(subject, subject.fast, backend)["as_promised"]
    backend.recordings = 1
    other = EntailmentModel.load(tiny)
    with torch.no_grad():
        other.network.decoder.layer_norm.weight.neg_()
    assert not agreement(subject, other, backend)["as_promised"]


def test_the_emulation_answers_the_same_in_three_passes(tiny: Path) -> None:
    slow, pair = modelscopes_way(tiny, "cpu"), Pair(Image.new("RGB", (90, 60), "red"), "a red circle")
    decoder, passes, rows = slow.network.decoder, list[int](), list[int]()
    decoder.register_forward_hook(lambda _, inputs, states: passes.append(states.shape[1]))
    decoder.output_projection.register_forward_hook(lambda _, inputs, logits: rows.append(logits.shape[-1]))
    assert slow.judge([pair])[0] == pytest.approx(EntailmentModel.load(tiny).judge([pair])[0], abs=1e-5)
    assert len(passes) == len(slow.task.answers)
    assert rows == [slow.network.config.vocab_size] * len(passes)


def test_a_lost_context_is_seen_by_its_exit_code(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a simulated GPU; only a real one has a real assert."""
    monkeypatch.setenv("PRETEND_CUDA", "1")
    subject = Subject(
        tiny, tiny, tmp_path, "cuda:0", True, tmp_path, None, pairs=1, rounds=1, closer_than=0.0
    )
    assert _ended(subject, ExitCode.DEVICE_LOST) == {"exit_code": 71, "last_exit": 71, "as_promised": True}


IMPORTS = """
import sys
from importlib.metadata import packages_distributions
import lab.bench.gpu.__main__, lab.bench.gpu.service, health_api, service.build, lab.faults.inside
from service.process.exit_file import exit_now
from service.settings import Settings
application = service.build.build(Settings.from_args(["--model", "demo", "--device", "cpu"], {}))
assert application.supervisor.load()
application.report(), application.exposition()
known = packages_distributions()
print(*{name for module in [*sys.modules] for name in known.get(module.partition(".")[0], [])})
exit_now(0)  # without waiting for a probe that is under way
"""


def test_the_site_folder_has_every_package_the_gpu_check_needs(tmp_path: Path) -> None:
    site = re.search(r"^GPU_SITE := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert site
    waiting, brought = [*PRESENT, *site[1].split()], set[NormalizedName]()
    while waiting:  # and their requirements
        if (name := canonicalize_name(waiting.pop())) not in brought:
            brought.add(name)
            needs = map(Requirement, requires(name) or [])
            waiting += [one.name for one in needs if not one.marker or one.marker.evaluate({"extra": ""})]
    environment = {**os.environ, "OFA_RUN_DIR": str(tmp_path)}
    imported = subprocess.check_output([sys.executable, "-c", IMPORTS], cwd=ROOT, env=environment, text=True)
    # Pillow imports defusedxml if it happens to be installed.
    assert set(map(canonicalize_name, imported.split())) - {"defusedxml"} <= brought
