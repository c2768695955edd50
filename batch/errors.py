"""Why the service does not take a batch, or does not return one."""

from __future__ import annotations

from batch.folder import Unusable
from service.contract.causes import ApiCode, BatchCode
from service.contract.errors import ServiceError


class BatchRefused(ServiceError):
    """The code is a BatchCode, or the ApiCode ``too_large``, ``no_room`` or ``not_found``."""


def no_room() -> BatchRefused:
    return BatchRefused("There is no disk space for another batch.", code=ApiCode.NO_ROOM)


def off(reason: str) -> BatchRefused:
    return BatchRefused(f"Batches are off: {reason}.", code=BatchCode.BATCHES_OFF)


def of_unusable(error: Unusable) -> BatchRefused:
    """Map a failure of the store: a full or slow disk may pass, damage does not."""
    return off(error.reason) if error.reason == "damaged" else no_room()
