"""The child process behind --backend modelscope, with a stand-in that needs no ModelScope."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from PIL import Image

from service.contract.errors import (
    InferenceError,
    InputError,
    MissingDependency,
    NotReady,
    OutOfMemory,
    TransientLoadError,
    UnsupportedModel,
)
from service.contract.request import Pair
from service.inference.modelscope.backend import CHILD, ChildPredictor
from service.inference.modelscope.process import ChildProcess

STAND_IN = Path(__file__).with_name("stand_in_child.py")
PICTURE = Image.new("RGB", (8, 6), (10, 20, 30))
PATIENCE = 60.0  # seconds a test waits for what must come; a bound for a broken run, never a measurement
T = TypeVar("T")


class Cancelled(Exception):
    """What the tests' cancel points raise."""


class Model:
    """A predictor on the stand-in, and the folder that tells the stand-in what to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started = folder / "started"
        # A path from the current folder, as a person types it; the child starts in another one.
        python = Path(os.path.relpath(sys.executable))
        self.predictor = ChildPredictor(python, child=STAND_IN, load_seconds=PATIENCE)
        self.script("ok")
        self.configure({})

    def script(self, load: str) -> None:
        told = {"load": load, "started": str(self.started)}
        (self.folder / "script.json").write_text(json.dumps(told))

    def configure(self, model: dict[str, object]) -> None:
        (self.folder / "configuration.json").write_text(json.dumps({"model": model}))

    def load(self) -> None:
        self.predictor.load(self.folder)

    def judge(
        self, text: str, premise: str | None = None, cancel: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        return self.predictor.judge([Pair(PICTURE, text, premise)], cancel)[0]

    def pids(self) -> list[int]:
        """Process ids of all children started so far."""
        return [int(line) for line in self.started.read_text().split()]

    def judge_when_ready(self, text: str) -> dict[str, float]:
        """Judge as soon as the new child has loaded."""
        return until(lambda: self.judge(text), NotReady)


def until(attempt: Callable[[], T], meanwhile: type[Exception]) -> T:
    """What `attempt` returns once it stops raising `meanwhile`."""
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            return attempt()
        except meanwhile:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)


def gone(pid: int) -> None:
    """Waits for a process to end."""
    give_up = time.monotonic() + PATIENCE
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE:  # not ours to reap, if its parent was killed
            assert time.monotonic() < give_up, f"process {pid} does not end"
            time.sleep(0.01)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    made = Model(tmp_path)
    yield made
    made.predictor.close()


def test_scores_come_back_under_our_labels(model: Model) -> None:
    model.load()
    assert model.judge("a dog") == {"No": 0.1, "Yes": 0.7, "Maybe": 0.2}
    assert (model.predictor.device, model.predictor.dtype) == ("cpu", "fp32")


def test_many_pairs_and_large_pictures_pass_the_pipe(model: Model) -> None:
    model.load()
    large = Image.new("RGB", (2000, 1500))  # 12 MB on the wire, many times what a pipe holds
    scores = model.predictor.judge([Pair(large, "a"), Pair(large, "b")], lambda: None)
    assert scores == [{"No": 0.1, "Yes": 0.7, "Maybe": 0.2}] * 2


def test_a_python_that_is_not_there_is_a_missing_dependency(model: Model, tmp_path: Path) -> None:
    for python in (None, tmp_path / "no-python"):
        predictor = ChildPredictor(python, child=STAND_IN)
        with pytest.raises(MissingDependency) as caught:
            predictor.load(tmp_path)
        assert "make parity" in caught.value.remedy


def test_a_python_without_modelscope_is_a_missing_dependency_that_says_what_lacks(model: Model) -> None:
    model.script("no-module")
    with pytest.raises(MissingDependency, match="No module named 'modelscope'"):
        model.load()
    gone(model.pids()[0])


def test_the_real_child_says_so_too_when_run_without_its_environment(model: Model) -> None:
    """This environment has modelscope's hub client and not its pipeline's dependencies."""
    predictor = ChildPredictor(Path(sys.executable), device="cpu", child=CHILD, load_seconds=PATIENCE * 4)
    with pytest.raises(MissingDependency):
        predictor.load(model.folder)


@pytest.mark.parametrize("load", ["bad-model", "die"])
def test_a_failed_load_may_be_tried_again(model: Model, load: str) -> None:
    model.script(load)
    with pytest.raises(TransientLoadError):
        model.load()
    gone(model.pids()[0])
    with pytest.raises(NotReady):
        model.judge("a dog")
    model.script("ok")
    model.load()
    assert model.judge("a dog")["Yes"] == 0.7


def test_a_load_that_hangs_is_ended_at_its_limit(model: Model) -> None:
    model.script("hang")
    model.predictor._load_seconds = 1.0
    before = set(psutil.Process().children())
    with pytest.raises(TransientLoadError, match="no answer within"):
        model.load()
    assert set(psutil.Process().children()) <= before  # it may have had no time to say its number


def test_answers_that_mean_nothing_to_us_are_refused(model: Model) -> None:
    model.script("odd-answers")
    with pytest.raises(UnsupportedModel):
        model.load()


def test_a_configuration_that_cannot_be_read_is_refused(model: Model) -> None:
    for text in ("{", "[]", '{"model": {"patch_image_size": "480"}}'):
        (model.folder / "configuration.json").write_text(text)
        with pytest.raises(UnsupportedModel):
            model.load()


def test_low_precision_is_refused(model: Model) -> None:
    predictor = ChildPredictor(Path(sys.executable), dtype="bf16", child=STAND_IN)
    with pytest.raises(UnsupportedModel, match="fp32"):
        predictor.load(model.folder)


def test_a_child_that_dies_is_an_error_and_another_one_takes_over(model: Model) -> None:
    model.load()
    with pytest.raises(InferenceError):
        model.judge("die")
    assert model.judge_when_ready("a dog")["Yes"] == 0.7
    assert len(model.pids()) == 2


def test_a_child_killed_from_outside_is_replaced(model: Model) -> None:
    model.load()
    os.kill(model.pids()[0], signal.SIGKILL)
    with pytest.raises(InferenceError):
        model.judge("a dog")
    assert model.judge_when_ready("a dog")["Yes"] == 0.7


def test_a_child_that_breaks_the_protocol_is_replaced(model: Model) -> None:
    model.load()
    with pytest.raises(InferenceError):
        model.judge("babble")
    assert model.judge_when_ready("a dog")["Yes"] == 0.7


def test_cancelling_ends_the_computation_and_the_next_request_is_served(model: Model) -> None:
    model.load()
    computing = model.pids()[0]
    calls = []

    def cancel() -> None:
        calls.append(None)
        if len(calls) > 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        model.judge("hang", cancel=cancel)
    gone(computing)
    assert model.judge_when_ready("a dog")["Yes"] == 0.7
    assert len(model.pids()) == 2


def test_a_stopped_child_blocks_nobody(model: Model) -> None:
    """SIGSTOP: it neither reads nor answers, and a large request fills the pipe."""
    model.load()
    os.kill(model.pids()[0], signal.SIGSTOP)
    give_up = time.monotonic() + 1.0

    def cancel() -> None:
        if time.monotonic() > give_up:
            raise Cancelled

    with pytest.raises(Cancelled):
        model.predictor.judge([Pair(Image.new("RGB", (2000, 1500)), "a dog")], cancel)
    gone(model.pids()[0])
    assert model.judge_when_ready("a dog")["Yes"] == 0.7


def test_while_a_child_loads_again_requests_are_told_so(model: Model) -> None:
    model.load()
    model.script("held")
    with pytest.raises(InferenceError):
        model.judge("die")
    with pytest.raises(NotReady):
        model.judge("a dog")
    (model.folder / "go").touch()
    assert model.judge_when_ready("a dog")["Yes"] == 0.7


def test_an_error_inside_the_pipeline_keeps_the_child(model: Model) -> None:
    model.load()
    with pytest.raises(InferenceError, match="ValueError"):
        model.judge("raise")
    with pytest.raises(OutOfMemory):
        model.judge("memory")
    assert model.judge("a dog")["Yes"] == 0.7
    assert len(model.pids()) == 1


def test_a_lost_cuda_context_is_the_child_s_end_and_not_ours(model: Model) -> None:
    model.load()
    with pytest.raises(InferenceError) as caught:
        model.judge("context")
    assert caught.value.exit_code == InferenceError.exit_code
    assert model.judge_when_ready("a dog")["Yes"] == 0.7
    assert len(model.pids()) == 2


@pytest.mark.parametrize(("prompt", "takes", "premise"), [("{}?", False, "given"), ("{} so {}?", True, None)])
def test_a_premise_that_the_prompt_cannot_take_is_the_caller_s_to_change(
    model: Model, prompt: str, takes: bool, premise: str | None
) -> None:
    model.configure({"prompt": prompt})
    model.load()
    assert model.predictor.takes_premise is takes
    with pytest.raises(InputError) as caught:
        model.judge("a dog", premise)
    assert caught.value.code == "premise_refused"


def test_a_child_answers_a_process_with_more_than_1024_files(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    echo = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
    child = ChildProcess([sys.executable, "-c", echo], folder=tmp_path)
    try:
        assert max(files) > 1024
        assert child.ask({"a": 1}, PATIENCE) == {"a": 1}
    finally:
        child.kill()
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_says_how_large_a_picture_it_sees(model: Model) -> None:
    model.configure({"patch_image_size": 96})
    model.load()
    assert model.predictor.side() == 96
    assert model.predictor.takes_premise is None


def test_closing_while_judging_lets_the_judge_go(model: Model) -> None:
    model.load()
    computing = threading.Event()
    closer = threading.Thread(target=lambda: (computing.wait(PATIENCE), model.predictor.close()))
    closer.start()
    with pytest.raises(InferenceError):
        model.judge("hang", cancel=computing.set)
    closer.join(PATIENCE)
    gone(model.pids()[0])
    with pytest.raises(NotReady):
        model.judge("a dog")
    assert len(model.pids()) == 1, "closed means closed: no other child"


def test_the_child_ends_when_its_parent_is_killed(model: Model) -> None:
    """A parent without time to tidy up, as under the guardian's SIGKILL."""
    code = f"""
import sys
from pathlib import Path
from PIL import Image
from service.inference.modelscope.backend import ChildPredictor
from service.contract.request import Pair
predictor = ChildPredictor(Path(sys.executable), child=Path({str(STAND_IN)!r}))
predictor.load(Path({str(model.folder)!r}))
print("loaded", flush=True)
predictor.judge([Pair(Image.new("RGB", (4, 4)), "hang")], lambda: None)
"""
    root = Path(__file__).resolve().parent.parent.parent
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == "loaded\n"
        parent.kill()
        parent.wait(PATIENCE)
    gone(model.pids()[0])


def test_the_child_program_needs_only_the_standard_library_before_it_loads() -> None:
    """So that a missing dependency is a reply and not a death."""
    answer = subprocess.run(
        [sys.executable, "-I", "-S", str(CHILD)],
        input='{"op": "judge"}\n',
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert answer.returncode == 0
