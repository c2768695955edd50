"""ModelScope's side; run as `python -m lab.reference.child` with the Python of its own environment.

JSON lines as in service.inference.modelscope.child, whose loading and scoring this uses. The child measures
the seconds itself, so that the pipes do not count.

    {"op": "load", "folder": str, "device": str, "threads": int} -> {"seconds", "versions"}
    {"op": "judge", "picture": path, "text": str} -> {"seconds", "label", "score", "scores": {answer: float}}
    {"op": "batch", "pictures": [path], "texts": [str]} -> {"seconds"}
    {"op": "compare", "picture": path, "text": str, "premise": str|null}
        -> {"label", "score", "scores", "tokens": [int]}
    {"op": "keys", "folder": str} -> {"keys": {key: shape}, "buckets": {key: digest}}

Every reply also has "ok"; a failed operation replies {"ok": false, "error": "class: message"}. Unlike the
service's child, this one reports exception messages: its texts are the lab's, not a user's.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from service.inference.modelscope.child import Scorer, serve, versions


def digest(tensor: Any) -> str:
    """Return a short hash of an integer tensor's values."""
    return hashlib.sha256(tensor.long().contiguous().numpy().tobytes()).hexdigest()[:16]


class Reference:
    """Answers the operations; holds one loaded folder."""

    def __init__(self) -> None:
        self._loaded: Scorer | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to one request. An exception becomes a reply, since a failure is a result too."""
        operations = {
            "load": self._load,
            "judge": self._judge,
            "batch": self._batch,
            "compare": self._compare,
            "keys": self._keys,
        }
        try:
            return {"ok": True, **operations[request["op"]](request)}
        except Exception as error:
            return {"ok": False, "error": f"{type(error).__name__}: {str(error)[:300]}"}

    @property
    def _scorer(self) -> Scorer:
        if self._loaded is None:
            raise RuntimeError("no model is loaded")
        return self._loaded

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        self._loaded = None  # free the old model before the new one takes its memory
        began = time.perf_counter()
        self._loaded = Scorer(request["folder"], request["device"], request["threads"])
        return {"seconds": time.perf_counter() - began, "versions": versions()}

    def _judge(self, request: dict[str, Any]) -> dict[str, Any]:
        from PIL import Image

        with Image.open(request["picture"]) as picture:
            picture.load()
            began = time.perf_counter()
            verdict = self._scorer.judge(picture, request["text"], None)
        return {"seconds": time.perf_counter() - began, **verdict}

    def _batch(self, request: dict[str, Any]) -> dict[str, Any]:
        """Pass several questions as ModelScope's pipeline takes them: a list and a batch size."""
        from PIL import Image

        asked = [
            {"image": Image.open(picture).convert("RGB"), "text": text}
            for picture, text in zip(request["pictures"], request["texts"], strict=True)
        ]
        began = time.perf_counter()
        self._scorer.pipeline(asked, batch_size=len(asked))
        return {"seconds": time.perf_counter() - began}

    def _compare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Judge a path, so that ModelScope's own file reading is compared too."""
        picture, text, premise = request["picture"], request["text"], request["premise"]
        verdict = self._scorer.judge(picture, text, premise)
        inputs = {"image": picture, "text": text, **({} if premise is None else {"text2": premise})}
        prepared = self._scorer.pipeline.preprocessor(inputs)
        return {**verdict, "tokens": prepared["net_input"]["input_ids"][0].tolist()}

    def _keys(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return keys and shapes of ModelScope's network for a config.json, and its integer buffers."""
        from modelscope.models.multi_modal.ofa.modeling_ofa import OFAConfig, OFAModel

        config = json.loads((Path(request["folder"]) / "config.json").read_text(encoding="utf-8"))
        state = OFAModel(OFAConfig(**config)).state_dict()
        buckets = {
            key: digest(value) for key, value in state.items() if "bucket" in key or "position_idx" in key
        }
        return {"keys": {key: list(value.shape) for key, value in state.items()}, "buckets": buckets}


if __name__ == "__main__":
    serve(Reference().answer)
