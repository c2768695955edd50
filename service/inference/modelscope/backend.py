"""ModelScope's own pipeline behind the engine's protocol, in a child process with its own Python.

Its dependencies conflict with current Gradio, so it needs its own environment. A computation is cancelled by
killing the child; the next child starts loading at once, and until it has loaded, requests get `loading`.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from service.cgroups import core_limit
from service.contract.errors import (
    InferenceError,
    InputError,
    MissingDependency,
    NotReady,
    OutOfMemory,
    ServiceError,
    TransientLoadError,
    UnsupportedModel,
)
from service.contract.request import Pair
from service.inference.modelscope.process import ChildEnded, ChildProcess, ChildSilent

CHILD: Final = Path(__file__).with_name("child.py")
#: Seconds for importing ModelScope and loading; usually 18 s, minutes on a busy machine.
LOAD_SECONDS: Final = 300.0
#: Seconds for one pair; the engine's deadline cancels earlier.
PAIR_SECONDS: Final = 600.0
LABELS: Final[Mapping[str, str]] = {
    "yes": "Yes", "no": "No", "maybe": "Maybe",
    "entailment": "Yes", "contradiction": "No", "neutral": "Maybe",
}  # fmt: skip
_REMEDY: Final = "Run `make parity`, then pass --reference-python .venv-modelscope/bin/python."
_log = logging.getLogger(__name__)


class ChildPredictor:
    """A service.contract.protocols.Model whose network runs in a child process.

    Args:
        python: Python of the environment of requirements-modelscope.txt.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto`` or ``fp32``, the only one of ModelScope's pipeline.
        threads: CPU threads of the child; 0 for torch's default, or fewer where a cgroup allows less
            processor time.
        child: the program; tests pass another.
        load_seconds: time limit of a load, including the start of the child.
    """

    def __init__(
        self,
        python: Path | None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        threads: int = 0,
        child: Path = CHILD,
        load_seconds: float = LOAD_SECONDS,
    ) -> None:
        # Absolute, since the child starts in another folder; unresolved, since a venv's Python is a symlink.
        self._python = None if python is None else python.absolute()
        self._requested_device = device
        self._requested_dtype = dtype
        self._threads = threads
        self._program = child
        self._load_seconds = load_seconds
        # Guards _child, which `close` may clear at any moment.
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._loading = False
        self._folder = Path()
        self._labels: dict[str, str] = {}
        self._device = ""
        self._gpu: tuple[str, int, int] | None = None
        self._side = 0
        self._slots: int | None = None
        self._language: str | None = None

    @property
    def device(self) -> str:
        return self._device

    @property
    def dtype(self) -> str:
        return "fp32"

    @property
    def takes_premise(self) -> bool | None:
        return None if self._slots is None else self._slots > 1

    @property
    def language(self) -> str | None:
        return self._language

    def side(self) -> int:
        """Picture side in pixels; ModelScope's preprocessor does not resize a picture of this size again."""
        if not self._side:
            raise NotReady("The model is not loaded.")
        return self._side

    def load(self, folder: Path) -> None:
        """Raises MissingDependency, UnsupportedModel, TransientLoadError."""
        if self._requested_dtype not in ("auto", "fp32"):
            raise UnsupportedModel(
                "--backend modelscope computes in fp32 only.",
                remedy="Omit --dtype, or use --backend native.",
            )
        self.close()
        self._folder = folder
        self._read_configuration()
        child = self._start()
        try:
            self._accept(child.reply(self._load_seconds))
        except (ChildEnded, ChildSilent) as error:
            self.close()
            raise TransientLoadError(f"ModelScope's process could not load the model: {error}.") from error
        except ServiceError:
            self.close()
            raise
        _log.info("DEVICE | NAME=%s | DTYPE=fp32 | BACKEND=modelscope | PID=%d", self._device, child.pid)

    def judge(self, pairs: Sequence[Pair], cancel_point: Callable[[], None]) -> list[dict[str, float]]:
        """Judge one pair after the other, since ModelScope's batches fail on texts of different lengths.

        Raises NotReady while a child loads, OutOfMemory, InputError, InferenceError.
        """
        child = self._ready_child()
        return [self._judge_one(child, pair, cancel_point) for pair in pairs]

    def gpu(self) -> tuple[str, int, int] | None:
        """The figures of the child's last reply."""
        return self._gpu

    def close(self) -> None:
        """Kill the child. A waiting `judge` fails with NotReady or InferenceError."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.kill()

    def _judge_one(
        self, child: ChildProcess, pair: Pair, cancel_point: Callable[[], None]
    ) -> dict[str, float]:
        if self._slots is not None and (pair.premise is not None) != (self._slots > 1):
            raise InputError(
                "The number of texts does not match this model's prompt.",
                code="premise_refused",
                remedy="Remove the premise, or add one if it is missing.",
            )
        image = pair.image.convert("RGB")
        request = {
            "op": "judge",
            "size": image.size,
            "rgb": base64.b64encode(image.tobytes()).decode(),
            "text": pair.hypothesis,
            "premise": pair.premise,
        }
        reply = self._ask(child, request, cancel_point)
        if not reply.get("ok"):
            if reply.get("kind") == "device":  # the child's CUDA context is lost, not this process's
                self._replace(child)
            raise _inference_error(reply)
        self._record_gpu(reply)
        return {self._labels[answer]: float(value) for answer, value in reply["scores"].items()}

    def _ask(
        self, child: ChildProcess, request: Mapping[str, Any], cancel_point: Callable[[], None]
    ) -> dict[str, Any]:
        """Return the child's reply; replace a child that has not replied."""
        try:
            return child.ask(request, PAIR_SECONDS, cancel_point)
        except (ChildEnded, ChildSilent) as error:
            self._replace(child)
            raise InferenceError(f"ModelScope's process failed: {error}.") from error
        except BaseException:  # cancelled: killing the child stops the computation
            self._replace(child)
            raise

    def _start(self) -> ChildProcess:
        """Start a child that begins to load. Raises MissingDependency."""
        if self._python is None:
            raise MissingDependency("--backend modelscope needs --reference-python.", remedy=_REMEDY)
        try:
            child = ChildProcess([str(self._python), "-I", str(self._program)], folder=self._program.parent)
        except OSError as error:
            raise MissingDependency(f"Cannot run {self._python}.", remedy=_REMEDY) from error
        device, threads = self._requested_device, self._threads or core_limit()
        child.send({"op": "load", "folder": str(self._folder), "device": device, "threads": threads})
        with self._lock:
            self._child, self._loading = child, True
        return child

    def _replace(self, child: ChildProcess) -> None:
        """Kill `child` and start another, unless `close` was called."""
        child.kill()
        with self._lock:
            closed = self._child is not child
        if not closed:
            _log.warning("CHILD_RESTART | BACKEND=modelscope | PID=%d", child.pid)
            self._start()

    def _ready_child(self) -> ChildProcess:
        with self._lock:
            child = self._child
        if child is None:
            raise NotReady("The model is not loaded.")
        if self._loading:
            try:
                self._accept(child.reply(0.0))
            except ChildSilent:
                raise NotReady("ModelScope's process is loading the model again.") from None
            except (ChildEnded, ServiceError) as error:
                self._replace(child)
                raise NotReady("ModelScope's process could not load the model again.") from error
        return child

    def _accept(self, reply: Mapping[str, Any]) -> None:
        """Store labels and device from the reply to `load`. Raises ServiceError when loading failed."""
        if not reply.get("ok"):
            raise _load_error(reply)
        labels = {answer: LABELS.get(answer.strip().lower(), "") for answer in reply["answers"]}
        if sorted(labels.values()) != ["Maybe", "No", "Yes"]:
            raise UnsupportedModel("The model's answers are not yes, no and maybe.")
        self._labels, self._device, self._loading = labels, str(reply["device"]), False
        self._record_gpu(reply)

    def _record_gpu(self, reply: Mapping[str, Any]) -> None:
        if "gpu" in reply:
            name, used, total = reply["gpu"]
            self._gpu = (str(name), int(used), int(total))

    def _read_configuration(self) -> None:
        """Read picture size, prompt and language, which this process needs. Raises UnsupportedModel."""
        try:
            text = (self._folder / "configuration.json").read_text(encoding="utf-8")
            model = json.loads(text)["model"]
            side, prompt = model.get("patch_image_size", 480), model.get("prompt")
            if type(side) is not int or side < 1:
                raise ValueError("patch_image_size")
            self._side = side
            self._language = str(model.get("language", "en"))  # ModelScope's default
            self._slots = None if prompt is None else str(prompt).count("{}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnsupportedModel("The folder's configuration.json is missing or unusable.") from error


def _load_error(reply: Mapping[str, Any]) -> ServiceError:
    name, message = reply.get("error", "error"), reply.get("message", "")
    match reply.get("kind"):
        case "dependency":
            return MissingDependency(f"ModelScope's environment is incomplete: {message}.", remedy=_REMEDY)
        case "memory":
            return TransientLoadError("Not enough memory for ModelScope's pipeline.")
        case _:
            return TransientLoadError(f"ModelScope could not load the model: {name}: {message}.")


def _inference_error(reply: Mapping[str, Any]) -> ServiceError:
    name = reply.get("error", "error")
    match reply.get("kind"):
        case "memory":
            return OutOfMemory("ModelScope's process is out of memory.")
        case "device":
            return InferenceError("ModelScope's process lost the CUDA context; another one is loading.")
        case _:
            return InferenceError(f"Unexpected {name} in ModelScope's pipeline.")
