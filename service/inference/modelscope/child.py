"""ModelScope's own visual-entailment pipeline behind JSON lines; started by the backend beside it.

Runs with the Python of ModelScope's environment (requirements-modelscope.txt), whose packages exclude current
Gradio, so this file imports nothing of ours, and until it is told to load only the standard library.

Standard input, one JSON object a line, answered in order on standard output:

    {"op": "load", "folder": str, "device": "auto"|"cpu"|"cuda:N", "threads": int}
        -> {"ok": true, "answers": [str, ...], "device": str, "versions": {package: version}}
    {"op": "judge", "size": [width, height], "rgb": base64 of the pixels, "text": str, "premise": str|null}
        -> {"ok": true, "label": str, "score": float, "scores": {answer: float}}

Replies from a GPU also have "gpu": [name, bytes used, bytes in all], other processes included.
A failure is {"ok": false, "error": class name, "kind": "dependency"|"memory"|"device"|"load"|"inference"},
with "message" while loading: later ones may hold user text. The end of standard input ends the process at
once, even in the middle of a computation: a child cannot outlive its parent.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
#: Packages whose versions decide the numbers.
DECIDING = ("modelscope", "transformers", "torch", "torchvision", "pillow", "numpy")


class Scorer:
    """One loaded model folder; `judge` is ModelScope's pipeline call, with all probabilities kept.

    The pipeline returns one label and its probability. The others are computed by the same call and dropped:
    OfaForAllTasks._traverse_inference ends in a softmax over the answers. That module's softmax is wrapped so
    that its result can be read; every number is still computed by ModelScope's own code.
    """

    def __init__(self, folder: str, device: str = "cpu", threads: int = 0) -> None:
        import torch
        from modelscope.models.multi_modal import ofa_for_all_tasks
        from modelscope.pipelines import pipeline
        from modelscope.utils.constant import Tasks

        if threads:
            torch.set_num_threads(threads)
        self._kept: list[Any] = []
        ofa_for_all_tasks.F = _SoftmaxRecorder(torch.nn.functional, self._kept)
        if device == "auto":
            device = "cuda:0" if torch.cuda.is_available() else "cpu"
        self.device = device
        self.pipeline: Any = pipeline(Tasks.visual_entailment, model=folder, device=device)
        _mend_prompt_type_none(self.pipeline.preprocessor)
        self.answers: list[str] = list(self.pipeline.model.ans2label_dict)

    def judge(self, image: Any, text: str, premise: str | None) -> dict[str, Any]:
        """ModelScope's label and score, and the probability of each answer in the answer file's order."""
        inputs: dict[str, Any] = {"image": image, "text": text}
        if premise is not None:
            inputs["text2"] = premise
        self._kept.clear()
        result = self.pipeline(inputs)
        probabilities = self._kept[-1][0].double().cpu().tolist()
        return {
            "label": result["labels"],
            "score": float(result["scores"]),
            "scores": dict(zip(self.answers, probabilities, strict=True)),
        }

    def gpu(self) -> dict[str, Any]:
        """What a reply says about the GPU in use; nothing on a CPU."""
        if self.device == "cpu":
            return {}
        import torch

        free, total = torch.cuda.mem_get_info(self.device)
        return {"gpu": [torch.cuda.get_device_name(self.device), total - free, total]}


def _mend_prompt_type_none(preprocessor: Any) -> None:
    """Let models with prompt_type "none" run at all.

    ModelScope's preprocessor gives them an empty list as `prefix_token`, on which its own collation fails
    ("'list' object has no attribute 'size'"). Traverse scoring never reads that field.
    """
    inner = preprocessor.preprocess

    def preprocess(data: Any) -> Any:
        sample = inner(data)
        if isinstance(sample.get("prefix_token"), list):
            del sample["prefix_token"]
        return sample

    preprocessor.preprocess = preprocess


class _SoftmaxRecorder:
    """torch.nn.functional for one module, keeping what its softmax returned."""

    def __init__(self, functional: Any, kept: list[Any]) -> None:
        self._functional, self._kept = functional, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._functional, name)

    def softmax(self, *args: Any, **kwargs: Any) -> Any:
        result = self._functional.softmax(*args, **kwargs)
        self._kept.append(result)
        return result


def versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers."""
    from importlib.metadata import version

    return {name: version(name) for name in DECIDING}


def failure(error: BaseException, fallback: str) -> dict[str, Any]:
    """The answer for a failed operation: its class and kind, never its message."""
    name, text = type(error).__name__, str(error)
    if isinstance(error, ImportError):
        kind = "dependency"
    elif isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in text:
        kind = "memory"
    elif "CUDA error" in text or name == "AcceleratorError":
        kind = "device"
    else:
        kind = fallback
    return {"ok": False, "error": name, "kind": kind}


class Server:
    """Answers requests one after the other; holds at most one model."""

    def __init__(self) -> None:
        self._scorer: Scorer | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request; errors become replies."""
        loading = request.get("op") == "load"
        try:
            return self._load(request) if loading else self._judge(request)
        except Exception as error:  # the edge: whatever ModelScope raises is a reply, not our end
            if loading:  # no user text has come this far yet, so the message cannot hold any
                return {**failure(error, "load"), "message": str(error)[:300]}
            return failure(error, "inference")

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        self._scorer = scorer = Scorer(request["folder"], request["device"], request["threads"])
        told = {"answers": scorer.answers, "device": scorer.device, "versions": versions()}
        return {"ok": True, **told, **scorer.gpu()}

    def _judge(self, request: dict[str, Any]) -> dict[str, Any]:
        from PIL import Image

        if self._scorer is None:
            raise RuntimeError("judge before load")
        image = Image.frombytes("RGB", tuple(request["size"]), base64.b64decode(request["rgb"]))
        verdict = self._scorer.judge(image, request["text"], request["premise"])
        return {"ok": True, **verdict, **self._scorer.gpu()}


def private_stdout() -> TextIO:
    """The real standard output, after pointing descriptor 1 at standard error.

    ModelScope and its imports print; a stray line among the replies would break the protocol.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return replies


def requests_until_eof(source: TextIO) -> queue.SimpleQueue[dict[str, Any]]:
    """Read requests in a thread; when the parent closes the pipe or dies, end this process at once."""
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        try:
            for line in source:
                waiting.put(json.loads(line))
        finally:
            os._exit(0)

    threading.Thread(target=read, name="requests", daemon=True).start()
    return waiting


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> NoReturn:
    """Answer the requests of standard input, a JSON line each, until it ends; ModelScope is kept offline."""
    os.environ.update(OFFLINE)
    replies = private_stdout()
    waiting = requests_until_eof(sys.stdin)
    while True:
        replies.write(json.dumps(answer(waiting.get())) + "\n")
        replies.flush()


if __name__ == "__main__":
    serve(Server().answer)
