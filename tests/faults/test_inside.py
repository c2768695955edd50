"""Faults inside the real process, injected at the lowest level and observed from outside.

Each test checks the user's answer, the report (health, livez, log, exit code), and that the service recovered
or exited with the code on which the guardian restarts it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.faults import making, scenes
from lab.faults.scenes import Scene
from lab.instances.instance import Instance
from tests.process.conftest import red_circle

__all__ = ["red_circle"]

# Allocates the GPU's memory except what one more context needs.
HOG = """
import time, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(free - 2**30, dtype=torch.uint8, device="cuda")
print(flush=True)
time.sleep(600)
"""
TEXT = "there is a red circle"
QUICK = {
    "OMP_NUM_THREADS": "1",
    "OFA_THREADS": "1",
    "OFA_DTYPE": "fp32",  # one forward pass per request, without the precision guard
    "OFA_TIMEOUT": "120",
    "OFA_PROBE_TIMEOUT": "120",
    "RETRY_GPU_PAUSE": "0.5",
}
Start = Callable[..., Instance]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as running:

        def _start(program: str = "health_api.py", *arguments: str, **environment: str) -> Instance:
            return running.enter_context(
                Instance(
                    tmp_path / "run",
                    program,
                    *("--model", "demo", *arguments),
                    program="lab/faults/inside.py",
                    environment=QUICK | environment,
                )
            )

        yield _start


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One instance with a real or simulated GPU for all faults that it survives."""
    with Instance(
        tmp_path_factory.mktemp("on-gpu"),
        *("web_app.py", "--model", "demo"),
        program="lab/faults/inside.py",
        # No probe after the first, which could consume a fault meant for a request.
        environment=QUICK | {"PRETEND_CUDA": "1", "PROBE_INTERVAL": "86400", "BASELINE_INTERVAL": "86400"},
    ) as instance:
        instance.wait_healthy()
        yield instance


def order(instance: Instance, **fault: object) -> None:
    """Select a fault; none without arguments."""
    part = instance.run_dir / "fault.part"
    part.write_text(json.dumps(fault))
    part.rename(instance.run_dir / "fault.json")


def health(instance: Instance) -> dict[str, Any]:
    return dict(json.loads(instance.get("/health")[1]))


def left(instance: Instance) -> tuple[int, str]:
    """Return exit code and reason as the guardian reads them."""
    code = instance.exit_code()
    told = json.loads((instance.run_dir / "last_exit.json").read_text())
    assert told["code"] == code
    return code, told["reason"]


# ---- memory of the GPU -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"times": 1}, {"times": 3, "on": "cuda"}], ids=["once", "three times"])
def test_a_transient_gpu_out_of_memory_loses_no_answer(
    fault: dict[str, Any], on_gpu: Instance, red_circle: bytes
) -> None:
    pid = on_gpu.process.pid
    order(on_gpu, kind="oom", **fault)
    answer = on_gpu.judge(red_circle, TEXT)
    assert (answer["label"], answer["reason"]) == ("Yes", None)
    assert "MEMORY | RUNG=cache emptied | DEVICE=cuda:0 | MSG=The GPU's memory is full." in on_gpu.log
    on_gpu.wait_for("the GPU", lambda: health(on_gpu)["model"]["degraded"] is None)
    assert health(on_gpu)["model"]["device"] == "cuda:0"
    assert on_gpu.process.pid == pid


def test_a_long_gpu_out_of_memory_falls_back_to_the_cpu_and_returns(
    on_gpu: Instance, red_circle: bytes
) -> None:
    falls = on_gpu.log.count("DEGRADED | FROM=cuda:0 | TO=cpu")
    order(on_gpu, kind="oom", on="cuda")
    for _ in range(3):
        answer = on_gpu.judge(red_circle, TEXT)
        assert (answer["label"], answer["reason"]) == ("Yes", None)
    told = health(on_gpu)
    assert told["model"]["degraded"] == "computing on the CPU: the memory of cuda:0 is full"
    assert told["model"]["device"] == "cpu"
    assert [on_gpu.get(path)[0] for path in ("/livez", "/readyz", "/health/simple")] == [200, 200, 200]
    assert on_gpu.log.count("DEGRADED | FROM=cuda:0 | TO=cpu") == falls + 1
    on_gpu.wait_for("a failed trial", lambda: "TRIAL | DEVICE=cuda:0 | OUTCOME=failed" in on_gpu.log)
    order(on_gpu)
    on_gpu.wait_for("the GPU", lambda: health(on_gpu)["model"]["degraded"] is None)
    assert "PROMOTED | DEVICE=cuda:0" in on_gpu.log
    answer = on_gpu.judge(red_circle, TEXT)
    assert (answer["label"], answer["reason"]) == ("Yes", None)
    on_gpu.wait_for("its line", lambda: "DEVICE=cuda:0" in _last_end(on_gpu))


def _last_end(instance: Instance) -> str:
    return [line for line in instance.log.splitlines() if "REQUEST_END" in line][-1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a real GPU that another process can fill")
def test_a_gpu_filled_by_another_process_loses_no_answer(on_gpu: Instance, red_circle: bytes) -> None:
    order(on_gpu, kind="need", on="cuda")
    with subprocess.Popen([sys.executable, "-c", HOG], stdout=subprocess.PIPE) as hog:
        try:
            assert hog.stdout is not None
            hog.stdout.readline()
            answer = on_gpu.judge(red_circle, TEXT)
            assert (answer["label"], answer["reason"]) == ("Yes", None)
            assert health(on_gpu)["model"]["device"] == "cpu"
        finally:
            hog.kill()
    on_gpu.wait_for("the GPU", lambda: health(on_gpu)["model"]["degraded"] is None)
    answer = on_gpu.judge(red_circle, TEXT)
    assert (answer["label"], answer["reason"]) == ("Yes", None)
    assert health(on_gpu)["model"]["device"] == "cuda:0"
    order(on_gpu)


# ---- the machine's memory, scores --------------------------------------------------------------------------


def test_a_host_out_of_memory_fails_one_request_not_the_process(on_gpu: Instance, red_circle: bytes) -> None:
    order(on_gpu, kind="memory")
    answer = on_gpu.judge(red_circle, TEXT)
    assert (answer["label"], answer["score"], answer["reason"]) == ("Maybe", 0.5, "error")
    order(on_gpu)
    answer = on_gpu.judge(red_circle, TEXT)
    assert (answer["label"], answer["reason"]) == ("Yes", None)
    assert "ERROR=OutOfMemory | MSG=The machine's memory is full." in on_gpu.log
    on_gpu.wait_for("the GPU", lambda: health(on_gpu)["model"]["degraded"] is None)


def test_nan_scores_are_never_a_verdict(on_gpu: Instance, red_circle: bytes) -> None:
    order(on_gpu, kind="nan", times=1)
    answer = on_gpu.judge(red_circle, TEXT)
    assert (answer["label"], answer["score"], answer["reason"]) == ("Maybe", 0.5, "error")
    answer = on_gpu.judge(red_circle, TEXT)
    assert (answer["label"], answer["reason"]) == ("Yes", None)
    assert "ERROR=NotFinite" in on_gpu.log
    assert TEXT not in on_gpu.log


def test_weights_that_turn_nan_are_reloaded_once_then_the_process_exits(start: Start) -> None:
    instance = start(PROBE_INTERVAL="0.2")
    instance.wait_healthy()
    order(instance, kind="nan")
    words: set[str] = set()

    def reloading() -> bool:
        told = health(instance)["details"]
        words.add(told["inference"])
        return told["model"] == "loading" or "RELOADING" in instance.log

    instance.wait_for("the reload", reloading)
    assert "unstable" in words
    code, reason = left(instance)
    assert (code, reason) == (1, "The model still fails its probe after a reload.")
    assert instance.log.count("PROBE | OUTCOME=unstable") == 6
    assert instance.log.count("MODEL_LOADING") == 2


def test_a_reload_repairs_weights_that_turned_nan(start: Start) -> None:
    instance = start(PROBE_INTERVAL="0.2")
    instance.wait_healthy()
    order(instance, kind="nan", times=3)
    instance.wait_for("the reload", lambda: "RELOADING" in instance.log)
    instance.wait_for("health", lambda: bool(health(instance)["status"] == "healthy"))
    assert health(instance)["model"]["reloads"] == 1
    assert instance.terminate() == 0


# ---- the device, the limit ---------------------------------------------------------------------------------


def test_a_lost_cuda_context_exits_with_71(start: Start, red_circle: bytes) -> None:
    instance = start("web_app.py", PRETEND_CUDA="1")
    instance.wait_healthy()
    order(instance, kind="assert")
    answer = instance.judge(red_circle, TEXT)
    assert (answer["label"], answer["score"], answer["reason"]) == ("Maybe", 0.5, "error")
    assert left(instance) == (71, "The CUDA context is lost.")
    assert (
        "RESTART_NEEDED | ERROR=DeviceLost | MSG=The CUDA context is lost. | CAUSE=RuntimeError"
        in instance.log
    )


def test_a_process_over_its_memory_limit_drains_and_exits_with_75(start: Start) -> None:
    instance = start(PROBE_INTERVAL="0.05")
    instance.wait_healthy()
    held = health(instance)["figures"]["process_bytes"]
    assert instance.terminate() == 0
    limit = (held >> 20) + 150
    # Slow enough that the growth between two memory checks fits any machine.
    instance = start("health_api.py", f"--max-rss={limit}M", PROBE_INTERVAL="0.5", FAULT='{"kind": "grow"}')
    code, reason = left(instance)
    assert code == 75
    assert reason.startswith("The resident memory is ")
    assert f"over the limit of {limit} MiB" in reason
    emptied, ended = instance.log.index("MEMORY_LIMIT |"), instance.log.index("RESTART_NEEDED")
    assert emptied < ended


# ---- time --------------------------------------------------------------------------------------------------


def test_a_hung_forward_pass_is_answered_and_exits_with_70(start: Start, red_circle: bytes) -> None:
    limits = {"OFA_TIMEOUT": "3", "OFA_CANCEL_GRACE": "0.5", "OFA_HANG_LIMIT": "10"}
    instance = start("web_app.py", **limits)
    instance.wait_healthy()
    order(instance, kind="stuck")
    answer = instance.judge(red_circle, TEXT)
    assert (answer["label"], answer["score"], answer["reason"]) == ("Maybe", 0.5, "timeout")
    instance.wait_for("the orphan", lambda: health(instance)["queue"]["state"] == "wedged")
    assert instance.get("/livez")[0] == 200  # the computation may still end
    assert instance.get("/readyz") == (503, "stuck")
    assert instance.judge(red_circle, TEXT)["reason"] == "busy"  # at once, without queueing
    assert left(instance)[0] == 70
    (path,) = instance.run_dir.glob("postmortem-*.txt")
    text = path.read_text()
    assert "engine (thread" in text
    assert "inside.py" in text  # the innermost frame of the engine's thread
    assert f": {len(TEXT)} chars" in text
    assert TEXT not in text + instance.log + instance.output
    assert f"TIMEOUT\t{len(TEXT)} chars" in (instance.run_dir / "slow_requests.log").read_text()


def test_a_thread_that_holds_the_gil_leaves_its_stack(start: Start) -> None:
    instance = start(PROBE_INTERVAL="0.2")
    instance.wait_healthy()
    order(instance, kind="gil")
    stacks = instance.run_dir / "stalled.part"  # renamed to stalled.txt by the process or its successor
    instance.wait_for("the stacks", lambda: stacks.exists() and "inside.py" in stacks.read_text())
    assert instance.process.poll() is None  # only the guardian can end it, since /livez cannot answer


def test_overload_is_unready_with_retry_after_but_alive_and_healthy(start: Start, red_circle: bytes) -> None:
    instance = start("web_app.py", "--queue-size", "2", "--trusted-proxies", "127.0.0.1")
    instance.wait_healthy()
    order(instance, kind="slow")
    seen: set[tuple[int, int, int]] = set()
    waits: set[str] = set()
    told: list[str] = []
    enough = threading.Event()

    def user(number: int) -> None:
        while not enough.is_set():
            answer = instance.judge(red_circle, TEXT, caller=f"192.0.2.{number}")
            told.append(answer["reason"] or answer["label"])

    def overloaded() -> bool:
        seen.add(tuple(instance.get(path)[0] for path in ("/livez", "/health/simple", "/readyz")))  # type: ignore[arg-type]
        waits.update(_retry_after(instance))
        return (200, 200, 503) in seen and bool(waits) and {"Yes", "busy"} <= set(told)

    with ThreadPoolExecutor(10) as users:
        asked = [users.submit(user, number) for number in range(10)]
        try:
            instance.wait_for("overload", overloaded)
        finally:
            enough.set()
        for one in asked:
            one.result()
    assert set(told) == {"Yes", "busy"}
    assert {live for live, _, _ in seen} == {simple for _, simple, _ in seen} == {200}
    assert waits
    assert all(wait.isdigit() and int(wait) >= 1 for wait in waits)
    assert instance.get("/readyz")[0] == 200
    assert instance.terminate() == 0


def _retry_after(instance: Instance) -> list[str]:
    """Return the Retry-After of /readyz, if any."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(instance.health + "/readyz", timeout=60).close()
    except urllib.error.HTTPError as error:
        with error:
            return [error.headers["Retry-After"]]
    return []


# ---- loading -----------------------------------------------------------------------------------------------


def _deepen(scene: Scene) -> None:
    path = scene.model / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"decoder_layers": config["decoder_layers"] + 1}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        pytest.param(making.corrupt, "differs from its checksums", id="64 bytes wrong"),
        # Faster twins: tests/inference/test_hostile_folders.py, tests/process/test_refusals.py.
        pytest.param(
            making.truncate,
            "pytorch_model.bin is damaged, truncated or no weight file",
            id="truncated",
            marks=pytest.mark.long,
        ),
        pytest.param(
            making.remove,
            "missing model.safetensors or pytorch_model.bin",
            id="missing",
            marks=pytest.mark.long,
        ),
        pytest.param(
            _deepen,
            "the weights do not fit config.json",
            id="another architecture",
            marks=pytest.mark.long,
        ),
    ],
)
def test_an_unusable_local_folder_exits_at_once_with_78(
    damage: Callable[[Scene], None], named: str, start: Start, tmp_path: Path
) -> None:
    with scenes.copied(tmp_path) as scene:
        damage(scene)
        instance = start("health_api.py", *scene.arguments)
        code, reason = left(instance)
    assert code == 78
    assert named in reason
    assert instance.log.count("MODEL_LOADING") == 1
    assert "MODEL_NOT_LOADED" in instance.log


def test_verified_weights_that_only_produce_nan_exit_with_78(start: Start, tmp_path: Path) -> None:
    with scenes.copied(tmp_path) as scene:
        making.spoil(scene)
        instance = start("health_api.py", *scene.arguments, PROBE_INTERVAL="0.2")
        assert left(instance) == (78, "The model's scores are not finite, also after a reload.")
    assert instance.log.count("MODEL_LOADING") == 2
