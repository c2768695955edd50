"""The tree of errors as a whole."""

from __future__ import annotations

from service.contract.errors import ServiceError


def test_every_error_says_what_to_do() -> None:
    """Classes whose remedy is empty leave a person alone; InputError's is given where it is raised."""
    pending, seen = [ServiceError], set()
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        seen.add(kind)
    silent = {kind.__name__ for kind in seen if not kind.default_remedy}
    assert silent == {
        "ServiceError", "InputError", "InvalidTexts", "Busy", "CallerBusy", "Abandoned",
        "Denied", "Forbidden", "LimitReached",
        "ModelError", "TransientLoadError", "PermanentLoadError",
    }  # fmt: skip
