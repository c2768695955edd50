"""What ModelScope says; runs with the Python of its own environment, as `python -m lab.parity.reference`.

JSON lines as in service.inference.modelscope.child, whose loading and scoring this uses; three operations:

    {"op": "load", "folder": str, "threads": int}  -> {"ok": true, "answers", "device", "versions"}
    {"op": "compare", "picture": path, "text": str, "premise": str|null}
        -> {"ok": true, "label", "score", "scores", "tokens": [int, ...]}
    {"op": "keys", "folder": str}  -> {"ok": true, "keys": {key: shape}, "buckets": {key: digest}}

Pictures go in as paths, so that ModelScope's own file reading is compared too. Unlike the service's child
this one reports messages of exceptions: its texts are ours.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from service.inference.modelscope.child import Scorer, serve, versions


def digest(tensor: Any) -> str:
    """A fingerprint of an integer tensor's values."""
    return hashlib.sha256(tensor.long().contiguous().numpy().tobytes()).hexdigest()[:16]


class Reference:
    """Answers the operations; holds one loaded folder."""

    def __init__(self) -> None:
        self._scorer: Scorer | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request; an exception becomes a reply."""
        operations = {"load": self._load, "compare": self._compare, "keys": self._keys}
        try:
            return {"ok": True, **operations[request["op"]](request)}
        except Exception as error:  # one folder or pair that fails must not end the comparison of the others
            return {"ok": False, "error": f"{type(error).__name__}: {str(error)[:300]}"}

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        self._scorer = None
        self._scorer = Scorer(request["folder"], "cpu", request.get("threads", 0))
        return {"answers": self._scorer.answers, "device": "cpu", "versions": versions()}

    def _compare(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._scorer is None:
            raise RuntimeError("compare before load")
        text, premise = request["text"], request.get("premise")
        verdict = self._scorer.judge(request["picture"], text, premise)
        inputs = {
            "image": request["picture"],
            "text": text,
            **({} if premise is None else {"text2": premise}),
        }
        prepared = self._scorer.pipeline.preprocessor(inputs)
        return {**verdict, "tokens": prepared["net_input"]["input_ids"][0].tolist()}

    def _keys(self, request: dict[str, Any]) -> dict[str, Any]:
        """Keys and shapes of ModelScope's network for a folder's config.json, and its integer buffers."""
        from modelscope.models.multi_modal.ofa.modeling_ofa import OFAConfig, OFAModel

        config = json.loads((Path(request["folder"]) / "config.json").read_text(encoding="utf-8"))
        state = OFAModel(OFAConfig(**config)).state_dict()
        buckets = {
            key: digest(value) for key, value in state.items() if "bucket" in key or "position_idx" in key
        }
        return {"keys": {key: list(value.shape) for key, value in state.items()}, "buckets": buckets}


if __name__ == "__main__":
    serve(Reference().answer)
