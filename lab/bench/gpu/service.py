"""The service without its ports, in a process of its own: `python -m lab.bench.gpu.service`, asked by step 3.

Settings are the environment's, messages JSON lines as in service.inference.modelscope.child. Every reply
holds "device" and "degraded", and "error" where something was raised:

    {"op": "load"}                -> {"loaded": bool}
    {"op": "judge", "count": int} -> {"answers": [[label or reason, device]]}, all of them asked at once
    {"op": "empty"}               -> {}; unused memory of the card was given back
    {"op": "state"}               -> {}
"""

from __future__ import annotations

import os
from typing import Any

import torch

from lab.bench.cases import photograph, sentence
from service.build import build
from service.inference.modelscope.child import serve
from service.settings import Settings
from service.telemetry.logs import Logs


class Service:
    """Answers the operations above."""

    def __init__(self) -> None:
        settings = Settings.from_args([], os.environ)
        Logs(settings.run_dir, max_bytes=settings.log_max_bytes, backups=settings.log_backups).open()
        self._application = build(settings)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request; an exception becomes a reply."""
        try:
            found = getattr(self, f"_{request.pop('op')}")(**request)
        except Exception as error:  # that it fails, and how, is a result as well
            found = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        now = self._application.snapshot()
        return {**found, "device": now.device, "degraded": now.degraded}

    def _load(self) -> dict[str, Any]:
        return {"loaded": self._application.load()}

    def _judge(self, count: int) -> dict[str, Any]:
        pictures = [photograph(seed) for seed in range(count)]  # first, so that none waits for another's
        asked = [self._application.submit(one, sentence(seed)) for seed, one in enumerate(pictures)]
        verdicts = [one.result() for one in asked]
        return {"answers": [(verdict.reason or verdict.label, verdict.device) for verdict in verdicts]}

    def _empty(self) -> dict[str, Any]:
        torch.cuda.empty_cache()
        return {}

    def _state(self) -> dict[str, Any]:
        return {}


if __name__ == "__main__":
    serve(Service().answer)
