"""The tree of errors as a whole."""

from __future__ import annotations

from batch.errors import BatchRefused
from batch.journal import RunError
from batch.rows import ListError
from service.contract.errors import ServiceError


def test_every_error_says_what_to_do() -> None:
    """Classes whose remedy is empty leave a person alone; InputError's is given where it is raised, that of
    BatchRefused by the API."""
    pending, seen = [ServiceError, BatchRefused, ListError, RunError], set()
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        seen.add(kind)
    silent = {kind.__name__ for kind in seen if not kind.default_remedy}
    assert silent == {
        "ServiceError", "InputError", "InvalidTexts", "Busy", "CallerBusy", "Abandoned",
        "Denied", "Forbidden", "LimitReached", "BatchRefused", "ListError", "RunError",
        "ModelError", "TransientLoadError", "PermanentLoadError",
    }  # fmt: skip
