"""The service without ports, in its own process, for step 3: `python -m lab.bench.gpu.service`.

Settings come from the environment; messages are JSON lines as in service.inference.modelscope.child. Every
reply has "device" and "degraded", and "error" after an exception:

    {"op": "load"}                -> {"loaded": bool}
    {"op": "judge", "count": int} -> {"answers": [[label or reason, device]]}, sent at once
    {"op": "empty"}               -> {}; empties the CUDA cache
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
    """Answers the operations."""

    def __init__(self) -> None:
        settings = Settings.from_args([], os.environ)
        Logs(settings.run_dir, max_bytes=settings.log_max_bytes, backups=settings.log_backups).open()
        self._application = build(settings)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to one request. An exception becomes a reply, since a failure is a result too."""
        try:
            found = getattr(self, f"_{request.pop('op')}")(**request)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        now = self._application.snapshot()
        return {**found, "device": now.device, "degraded": now.degraded}

    def _load(self) -> dict[str, Any]:
        return {"loaded": self._application.supervisor.load()}

    def _judge(self, count: int) -> dict[str, Any]:
        pictures = [photograph(seed) for seed in range(count)]  # all at once, not one after the other
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
