"""ModelScope's side; runs with the Python of its own environment, as `python -m lab.bench.reference`.

JSON lines as in service.inference.modelscope.child, whose loading and scoring this uses. Seconds are measured
here, so that pipes between two processes cost neither side anything:

    {"op": "load", "folder": str, "device": str, "threads": int} -> {"ok": true, "seconds", "versions"}
    {"op": "judge", "picture": path, "text": str} -> {"ok": true, "seconds", "scores": {answer: float}}
    {"op": "batch", "pictures": [path], "texts": [str]} -> {"ok": true, "seconds"}
"""

from __future__ import annotations

import time
from typing import Any

from service.inference.modelscope.child import Scorer, serve, versions


class Reference:
    """Answers the operations; holds one loaded folder."""

    def __init__(self) -> None:
        self._scorer: Scorer | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request; an exception becomes a reply."""
        operations = {"load": self._load, "judge": self._judge, "batch": self._batch}
        try:
            return {"ok": True, **operations[request["op"]](request)}
        except Exception as error:  # that it fails, and how, is a result as well
            return {"ok": False, "error": f"{type(error).__name__}: {str(error)[:200]}"}

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        self._scorer = Scorer(request["folder"], request["device"], request["threads"])
        return {"seconds": time.perf_counter() - began, "versions": versions()}

    def _judge(self, request: dict[str, Any]) -> dict[str, Any]:
        from PIL import Image

        assert self._scorer is not None
        with Image.open(request["picture"]) as picture:
            picture.load()
            began = time.perf_counter()
            verdict = self._scorer.judge(picture, request["text"], None)
        return {"seconds": time.perf_counter() - began, "scores": verdict["scores"]}

    def _batch(self, request: dict[str, Any]) -> dict[str, Any]:
        """What ModelScope offers for several questions: a list, and a batch size."""
        from PIL import Image

        assert self._scorer is not None
        asked = [
            {"image": Image.open(picture).convert("RGB"), "text": text}
            for picture, text in zip(request["pictures"], request["texts"], strict=True)
        ]
        began = time.perf_counter()
        self._scorer.pipeline(asked, batch_size=len(asked))
        return {"seconds": time.perf_counter() - began}


if __name__ == "__main__":
    serve(Reference().answer)
