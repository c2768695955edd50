"""The benchmark measures what it claims. No test asserts a speed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.bench import __main__ as command_line
from lab.bench.__main__ import SECTIONS, main
from lab.bench.kinds import kinds
from lab.bench.processes import MemoryWatch, cpu_seconds
from lab.bench.report import TABLES, markdown, merge
from lab.bench.sides import Subject
from lab.bench.stages import PARTS, count_operations
from lab.bench.timing import Spread, alternate, bounds
from lab.parity.folders import SMALL, write_folder
from ofa.model import EntailmentModel
from ofa.precision import Moved, moved
from ofa.processor import kind

#: Figures that each section must have, as dotted paths.
FIGURES = {
    "latency": ["sides.fp32.p50", "sides.fp32.p95"],
    "pictures": ["second_faster_by", "each_of_many_faster_by"],
    "together": ["at_once_per_second", "one_by_one_per_second", "ratio"],
    "load": ["levels.0.per_second", "levels.0.p95", "levels.2.callers"],
    "batches": ["levels.0.max_batch", "levels.0.mean"],
    "fair": ["alone.p95", "beside.p95", "greedy"],
    "retry": ["levels.0.predicted", "levels.0.actual", "levels.0.first_place", "levels.0.largest_error"],
    "background": ["levels.0.alone.p95", "levels.0.beside.p95", "levels.1.ratio_p95", "levels.2.preempted"],
    "stages": ["peaks_gflops.fp32", "sides.fp32.encoder.share_of_peak", "sides.fp32.decode.ms"],
    "start": ["first_verdict", "web_app_healthy"],
    "polling": [
        "cpu_ms_per_call./livez",
        "throughput_lost",
        "throughput_lost_between.1",
        "cpu_share_at_1_hz_each",
    ],
    "reading": ["sides.reader.p50", "cost_ms"],
    "overhead": ["picture", "cost_ms"],
    "batch": ["rows", "lists.drawings.share", "lists.photographs.alone_per_second"],
    "agreement": ["sides"],
    "margin": ["formats.bf16.all.largest_error", "formats.fp16.configurations.defaults-resnet18.differing"],
    "ablation": ["steps.BatchNorm folded.gain", "steps.bias kept.without"],
    "kinds": ["rows"],
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("tiny"), SMALL["defaults-resnet18"])


def found(figures: Any, path: str) -> Any:
    for step in path.split("."):
        figures = figures[int(step)] if step.isdigit() else figures[step]
    return figures


def test_every_section_is_tested_and_has_its_table() -> None:
    assert list(FIGURES) == list(SECTIONS) == list(TABLES)


#: Sections that start processes or load the model many times.
SLOW = ("start", "polling", "ablation", "kinds")


@pytest.mark.parametrize(
    "section",
    [pytest.param(name, marks=pytest.mark.long if name in SLOW else ()) for name in SECTIONS],
)
def test_a_section_writes_its_figures_and_a_table(
    section: str,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command_line, "WORK", tmp_path / "work")
    out = tmp_path / "out"
    flags = ["--quick", "--device", "cpu", "--model", str(tiny), "--small", str(tiny), "--pairs", "4"]
    assert main([*flags, "--only", section, "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    figures = results["cpu"][section]
    assert figures["machine"]["cpus"] >= 1
    for path in FIGURES[section]:
        assert found(figures, path) is not None, path
    assert (out / "results.md").read_text() in capsys.readouterr().out
    assert "| ---" in markdown(results) or "skipped" in figures
    assert (out / "load-cpu.png").exists() == (section == "load")
    assert not list((tmp_path / "work").glob("*.json")), "only in the requested folder"


def test_a_section_of_an_older_version_does_not_break_the_report() -> None:
    machine = {"load_average": 0.1, "packages": {}}
    text = markdown({"cpu": {"polling": {"machine": machine, "measured": "then", "cpu_ms_per_call": {}}}})
    assert "### polling" in text
    assert "older version" in text


def test_separately_measured_sections_are_merged_and_failures_reported(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(subject: Subject) -> dict[str, Any]:
        raise RuntimeError("not on this machine")

    def measure(subject: Subject) -> dict[str, Any]:
        return {"side": "fp32", "skipped": subject.folder.name}

    monkeypatch.setattr(command_line, "SECTIONS", {"load": fail, "agreement": measure})
    flags = ["--device", "cpu", "--model", str(tiny), "--small", str(tiny), "--out", str(tmp_path)]
    earlier = {"measured": "then", "machine": {"load_average": 0.0}, "kept": True}
    (tmp_path / "results.json").write_text(json.dumps({"cuda": {}, "cpu": {"other": earlier}}))
    assert main(flags) == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["cpu"]["other"] == earlier
    assert results["cpu"]["agreement"]["skipped"] == tiny.name
    assert "load" not in results["cpu"]
    assert main([*flags, "--skip", "load"]) == 0


def test_an_unknown_section_is_refused() -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--only", "latency,speed"])
    assert refused.value.code == 2


def test_figures_of_two_devices_stand_side_by_side() -> None:
    results: dict[str, Any] = {}
    for device in ("cpu", "cuda:0"):
        merge(results, device, "agreement", {"side": "bf16", "skipped": device}, {"load_average": 0.0})
    assert set(results) == {"cpu", "cuda"}
    assert "## GPU" in markdown(results)


# ---- measuring -------------------------------------------------------------------------------------------


def test_rows_of_other_processors_are_kept() -> None:
    def row(seconds: float, forced: bool = False) -> dict[str, Any]:
        sides = {"ModelScope": 4.0, "fp32": 2.0, "bf16": seconds}
        return {"processor": "one", "kind": "amx", "forced": forced, "threads": 2, "sides": sides}

    machine = {"load_average": 0.0}
    results: dict[str, Any] = {}
    merge(results, "cpu", "kinds", {"rows": {"here": row(0.5), "there": row(0.8, forced=True)}}, machine)
    merge(results, "cpu", "kinds", {"rows": {"here": row(0.4)}}, machine)
    assert {name: one["sides"]["bf16"] for name, one in results["cpu"]["kinds"]["rows"].items()} == {
        "here": 0.4,
        "there": 0.8,
    }
    text = markdown(results)
    assert "10.00×" in text
    assert "(forced)" in text


def test_each_kind_is_measured_in_a_process_that_is_limited_to_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = dict.fromkeys(("scratch", "cache"), tmp_path)
    subject = Subject(
        folder=tiny,
        small=tiny,
        device="cpu",
        quick=True,
        python=None,
        pairs=4,
        rounds=1,
        closer_than=0.0,
        **folders,
    )
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "SSE41")  # not this processor's own kind
    rows = list(kinds(subject)["rows"].values())
    monkeypatch.delenv("DNNL_MAX_CPU_ISA")
    assert rows[0]["kind"] == kind()
    assert not rows[0]["forced"]
    forced = [(row["kind"], set(row["sides"])) for row in rows[1:]]
    assert forced == ([("avx2", {"fp32"})] if kind() not in ("avx2", "other") else [])


def test_sides_alternate_with_the_same_questions() -> None:
    calls: list[tuple[str, int]] = []

    def side(name: str) -> Any:
        def call(turn: int) -> float:
            calls.append((name, turn))
            return float(len(calls))

        return call

    spreads = alternate({"a": side("a"), "b": side("b")}, 2, warm=1, often={"b": 2})
    assert [name for name, _ in calls] == ["a", "b", "b", "b", "a", "a", "b", "b"]
    assert [turn for name, turn in calls if name == "a"] == [-31, 0, 31]
    assert len(spreads["a"].seconds) == 2
    assert spreads["b"].seconds == [3.0, 4.0, 7.0, 8.0]


def test_a_spread_has_the_median_and_the_95th_percentile() -> None:
    spread = Spread([float(number) for number in range(100, 0, -1)])
    assert (spread.median, spread.p95) == (50.5, 95.0)
    assert Spread([2.0, 1.0]).p95 == 2.0


def test_the_confidence_interval_narrows_with_more_measurements() -> None:
    assert bounds([3.0, 1.0, 2.0]) == (1.0, 3.0)
    low, high = bounds([float(number) for number in range(101)])
    assert (low, high) == (40.0, 60.0)


def test_a_lead_that_moves_too_far_changes_the_verdict() -> None:
    exact = {"Yes": 0.5, "No": 0.4, "Maybe": 0.1}
    assert moved(exact, exact) == Moved(pytest.approx(math.log(5 / 4)), pytest.approx(0.0), False)
    other = moved(exact, {"Yes": 0.4, "No": 0.5, "Maybe": 0.1})
    assert other == Moved(pytest.approx(math.log(5 / 4)), pytest.approx(2 * math.log(5 / 4)), True)
    assert moved(exact, {"Yes": math.nan, "No": 0.5, "Maybe": 0.1}) is None
    sure = moved({"Yes": 1.0, "No": 0.0, "Maybe": 0.0}, {"Yes": 1.0, "No": 0.0, "Maybe": 0.0})
    assert sure == Moved(math.inf, 0.0, False)


def test_counted_operations_match_the_formula(tiny: Path) -> None:
    model = EntailmentModel.load(tiny)
    encoder, config, lengths = model.network.encoder, model.network.config, set[int]()
    with encoder.layers[0].register_forward_hook(lambda _, inputs, __: lengths.add(inputs[0].shape[1])):
        counted = count_operations(model)
    assert all(counted[part] > 0 for part in PARTS)
    (tokens,) = lengths  # tokens of picture and text
    seen = (-(-model.task.patch_image_size // 16)) ** 2
    width, inner = config.d_model, config.encoder_ffn_dim
    products = config.encoder_layers * tokens * (4 * width**2 + 2 * width * inner + 2 * tokens * width)
    assert counted["encoder"] == 2 * (products + seen * 1024 * width)
    low = EntailmentModel.load(tiny, dtype=torch.bfloat16)
    assert count_operations(low) == counted, "products that are fused with what follows count as well"
    assert encoder.forward.__func__ is type(encoder).forward


def test_anonymous_and_mapped_memory_are_distinguished(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"\1" * 60_000_000)
    program = (
        "import mmap, sys\n"
        "own = bytearray(b'x') * 100_000_000\n"
        f"file = open({str(file)!r}, 'rb')\n"
        "view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "sum(view[::4096])\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        with MemoryWatch(child.pid) as memory:
            child.stdout.readline()
            while memory.samples < 2 or memory.as_dict()["mapped_files_mb"] < 60:
                assert child.poll() is None
        assert child.stdin is not None
        child.stdin.close()
    seen = memory.as_dict()
    assert 100 <= seen["own_mb"] < 160
    assert 60 <= seen["mapped_files_mb"] < 120
    assert seen["resident_mb"] == pytest.approx(seen["own_mb"] + seen["mapped_files_mb"], abs=1)


def test_cpu_seconds_are_those_of_the_process() -> None:
    before = cpu_seconds(os.getpid())
    while cpu_seconds(os.getpid()) == before:
        sum(range(10_000))
    assert cpu_seconds(os.getpid()) > before
