"""ModelScope's own visual-entailment pipeline behind JSON lines; backend.py starts it.

Runs with the Python of ModelScope's environment (requirements-modelscope.txt), so this file imports nothing
of this project, and until `load` only the standard library.

Each line of standard input is a JSON request, answered in order on standard output:

    {"op": "load", "folder": str, "device": "auto"|"cpu"|"cuda:N", "threads": int}
        -> {"ok": true, "answers": [str, ...], "device": str, "versions": {package: version}}
    {"op": "judge", "size": [width, height], "rgb": base64 of the pixels, "text": str, "premise": str|null}
        -> {"ok": true, "label": str, "score": float, "scores": {answer: float}}

Replies from a GPU also have "gpu": [name, bytes used, bytes total], including other processes.
A failure is {"ok": false, "error": class name, "kind": "dependency"|"memory"|"device"|"load"|"inference"}. It
has "message" only for `load`, since later messages may hold user text. At the end of standard input the
process exits at once, even during a computation, so that it cannot outlive its parent.
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
#: Packages whose versions determine the scores.
DECIDING = ("modelscope", "transformers", "torch", "torchvision", "pillow", "numpy")


class Scorer:
    """One loaded model folder; `judge` calls ModelScope's pipeline and records all probabilities.

    The pipeline returns one label and its probability and drops the others:
    OfaForAllTasks._traverse_inference ends in a softmax over the answers. That module's softmax is wrapped to
    record its result; ModelScope's own code computes every number.
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
        _fix_prompt_type_none(self.pipeline.preprocessor)
        self.answers: list[str] = list(self.pipeline.model.ans2label_dict)

    def judge(self, image: Any, text: str, premise: str | None) -> dict[str, Any]:
        """Return ModelScope's label and score, and each answer's probability in the answer file's order."""
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
        """Return the GPU fields of a reply; empty on a CPU."""
        if self.device == "cpu":
            return {}
        import torch

        free, total = torch.cuda.mem_get_info(self.device)
        return {"gpu": [torch.cuda.get_device_name(self.device), total - free, total]}


def _fix_prompt_type_none(preprocessor: Any) -> None:
    """Work around a crash of ModelScope for models with prompt_type "none".

    Its preprocessor gives them an empty list as `prefix_token`, on which its own collation fails ("'list'
    object has no attribute 'size'"). Traverse scoring does not read that field.
    """
    inner = preprocessor.preprocess

    def preprocess(data: Any) -> Any:
        sample = inner(data)
        if isinstance(sample.get("prefix_token"), list):
            del sample["prefix_token"]
        return sample

    preprocessor.preprocess = preprocess


class _SoftmaxRecorder:
    """torch.nn.functional for one module, recording the results of softmax."""

    def __init__(self, functional: Any, kept: list[Any]) -> None:
        self._functional, self._kept = functional, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._functional, name)

    def softmax(self, *args: Any, **kwargs: Any) -> Any:
        result = self._functional.softmax(*args, **kwargs)
        self._kept.append(result)
        return result


def versions() -> dict[str, str]:
    """Return the versions of the packages that determine the scores."""
    from importlib.metadata import version

    return {name: version(name) for name in DECIDING}


def failure(error: BaseException, fallback: str) -> dict[str, Any]:
    """Return the reply for a failed operation: class and kind, never the message."""
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
    """Answers one request at a time; holds at most one model."""

    def __init__(self) -> None:
        self._scorer: Scorer | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to one request; exceptions become replies."""
        loading = request.get("op") == "load"
        try:
            return self._load(request) if loading else self._judge(request)
        except Exception as error:  # ModelScope may raise anything; the process must go on
            if loading:  # before any user text, so the message cannot hold it
                return {**failure(error, "load"), "message": str(error)[:300]}
            return failure(error, "inference")

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        self._scorer = scorer = Scorer(request["folder"], request["device"], request["threads"])
        reply = {"answers": scorer.answers, "device": scorer.device, "versions": versions()}
        return {"ok": True, **reply, **scorer.gpu()}

    def _judge(self, request: dict[str, Any]) -> dict[str, Any]:
        from PIL import Image

        if self._scorer is None:
            raise RuntimeError("judge before load")
        image = Image.frombytes("RGB", tuple(request["size"]), base64.b64decode(request["rgb"]))
        verdict = self._scorer.judge(image, request["text"], request["premise"])
        return {"ok": True, **verdict, **self._scorer.gpu()}


def private_stdout() -> TextIO:
    """Return the real standard output and redirect descriptor 1 to standard error.

    ModelScope and its imports print, which would break the protocol.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return replies


def requests_until_eof(source: TextIO) -> queue.SimpleQueue[dict[str, Any]]:
    """Read requests in a thread; exit at once when the parent closes the pipe or dies."""
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
    """Answer JSON lines from standard input until it ends; set ModelScope offline."""
    os.environ.update(OFFLINE)
    replies = private_stdout()
    waiting = requests_until_eof(sys.stdin)
    while True:
        replies.write(json.dumps(answer(waiting.get())) + "\n")
        replies.flush()


if __name__ == "__main__":
    serve(Server().answer)
