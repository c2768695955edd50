"""ModelScope's own pipeline behind the engine's protocol, in a child process with its own Python.

Its dependencies exclude current Gradio, so it cannot live here. A child can be killed at any moment: that is
how a computation is stopped, and the next child starts loading at once. Until it has loaded, requests are
answered "loading".
"""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

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
#: Seconds for importing ModelScope and loading; 18 s is usual, minutes on a busy machine.
LOAD_SECONDS: Final = 300.0
#: Seconds for one pair, should nobody cancel before.
PAIR_SECONDS: Final = 600.0
LABELS: Final[Mapping[str, str]] = {
    "yes": "Yes", "no": "No", "maybe": "Maybe",
    "entailment": "Yes", "contradiction": "No", "neutral": "Maybe",
}  # fmt: skip
_REMEDY: Final = "`make parity` builds .venv-modelscope; then --reference-python .venv-modelscope/bin/python."
_log = logging.getLogger(__name__)


class ChildPredictor:
    """A service.contract.protocols.Model whose network runs in a child process.

    Args:
        python: of the environment of requirements-modelscope.txt.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto`` or ``fp32``; ModelScope's pipeline has no other.
        threads: of the child's torch; 0 leaves it to torch.
        child: the program, another one in tests.
        load_seconds: limit of a load, start of the child included.
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
        # Absolute, since the child starts in another folder; not resolved, since a venv's Python is a link.
        self._python = None if python is None else python.absolute()
        self._wanted = device
        self._wanted_dtype = dtype
        self._threads = threads
        self._program = child
        self._load_seconds = load_seconds
        # Guards _child, which `close` may take away at any moment.
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._loading = False
        self._folder = Path()
        self._labels: dict[str, str] = {}
        self._device = ""
        self._gpu: tuple[str, int, int] | None = None
        self._side = 0
        self._slots: int | None = None

    @property
    def device(self) -> str:
        return self._device

    @property
    def dtype(self) -> str:
        return "fp32"

    @property
    def takes_premise(self) -> bool | None:
        return None if self._slots is None else self._slots > 1

    def side(self) -> int:
        """ModelScope's preprocessor does not resize a picture of this size again."""
        if not self._side:
            raise NotReady("The model is not loaded.")
        return self._side

    def load(self, folder: Path) -> None:
        """Raises MissingDependency, UnsupportedModel, TransientLoadError."""
        if self._wanted_dtype not in ("auto", "fp32"):
            raise UnsupportedModel(
                "--backend modelscope computes in fp32 only.",
                remedy="Leave --dtype out, or use our own network.",
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
        _log.info("DEVICE | %s | DTYPE=fp32 | BACKEND=modelscope | PID=%d", self._device, child.pid)

    def judge(self, pairs: Sequence[Pair], cancel_point: Callable[[], None]) -> list[dict[str, float]]:
        """One pair after the other: ModelScope's own batches fail on texts of different lengths.

        Raises NotReady while a child loads, OutOfMemory, InputError, InferenceError.
        """
        child = self._ready_child()
        return [self._judge_one(child, pair, cancel_point) for pair in pairs]

    def gpu(self) -> tuple[str, int, int] | None:
        """As of the last answer: the figures come from the child."""
        return self._gpu

    def close(self) -> None:
        """Kill the child. A `judge` that waits for it fails with NotReady or InferenceError."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.kill()

    def _judge_one(
        self, child: ChildProcess, pair: Pair, cancel_point: Callable[[], None]
    ) -> dict[str, float]:
        if self._slots is not None and (pair.premise is not None) != (self._slots > 1):
            raise InputError(
                "This model's prompt and these texts do not fit.",
                code="premise_refused",
                remedy="Leave the premise out, or give one if there is none.",
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
            if reply.get("kind") == "device":  # lost for that process, not for this one
                self._replace(child)
            raise _inference_error(reply)
        self._note_gpu(reply)
        return {self._labels[answer]: float(value) for answer, value in reply["scores"].items()}

    def _ask(
        self, child: ChildProcess, request: Mapping[str, Any], cancel_point: Callable[[], None]
    ) -> dict[str, Any]:
        """The child's reply; a child that is left with the request unanswered is replaced."""
        try:
            return child.ask(request, PAIR_SECONDS, cancel_point)
        except (ChildEnded, ChildSilent) as error:
            self._replace(child)
            raise InferenceError(f"ModelScope's process failed: {error}.") from error
        except BaseException:  # cancelled: killing the child is what stops the computation
            self._replace(child)
            raise

    def _start(self) -> ChildProcess:
        """A new child, told to load. Raises MissingDependency."""
        if self._python is None:
            raise MissingDependency("--backend modelscope needs --reference-python.", remedy=_REMEDY)
        try:
            child = ChildProcess([str(self._python), "-I", str(self._program)], folder=self._program.parent)
        except OSError as error:
            raise MissingDependency(f"{self._python} cannot be run.", remedy=_REMEDY) from error
        child.send(
            {"op": "load", "folder": str(self._folder), "device": self._wanted, "threads": self._threads}
        )
        with self._lock:
            self._child, self._loading = child, True
        return child

    def _replace(self, child: ChildProcess) -> None:
        """Kill `child` and let another one load, unless `close` has been here."""
        child.kill()
        with self._lock:
            closed = self._child is not child
        if not closed:
            _log.warning("RESTART | ModelScope's process %d was ended; another one is loading", child.pid)
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
        """Take over what a loaded child says of itself. Raises MissingDependency, ModelErrors."""
        if not reply.get("ok"):
            raise _load_error(reply)
        labels = {answer: LABELS.get(answer.strip().lower(), "") for answer in reply["answers"]}
        if sorted(labels.values()) != ["Maybe", "No", "Yes"]:
            raise UnsupportedModel("The model's answers are not yes, no and maybe.")
        self._labels, self._device, self._loading = labels, str(reply["device"]), False
        self._note_gpu(reply)

    def _note_gpu(self, reply: Mapping[str, Any]) -> None:
        if "gpu" in reply:
            name, used, total = reply["gpu"]
            self._gpu = (str(name), int(used), int(total))

    def _read_configuration(self) -> None:
        """Picture size and prompt, needed on this side of the pipe. Raises UnsupportedModel."""
        try:
            text = (self._folder / "configuration.json").read_text(encoding="utf-8")
            model = json.loads(text)["model"]
            side, prompt = model.get("patch_image_size", 480), model.get("prompt")
            if type(side) is not int or side < 1:
                raise ValueError("patch_image_size")
            self._side = side
            self._slots = None if prompt is None else str(prompt).count("{}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnsupportedModel("The folder's configuration.json is missing or unusable.") from error


def _load_error(reply: Mapping[str, Any]) -> ServiceError:
    name, message = reply.get("error", "error"), reply.get("message", "")
    match reply.get("kind"):
        case "dependency":
            return MissingDependency(f"ModelScope's environment is incomplete: {message}.", remedy=_REMEDY)
        case "memory":
            return TransientLoadError("There is not enough memory for ModelScope's pipeline.")
        case _:
            return TransientLoadError(f"ModelScope could not load the model: {name}: {message}.")


def _inference_error(reply: Mapping[str, Any]) -> ServiceError:
    name = reply.get("error", "error")
    match reply.get("kind"):
        case "memory":
            return OutOfMemory("ModelScope's process has not enough memory.")
        case "device":
            return InferenceError("ModelScope's process lost the CUDA context; another one is loading.")
        case _:
            return InferenceError(f"Unexpected {name} in ModelScope's pipeline.")
