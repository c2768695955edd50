"""Why the service does not take a batch, or does not return one."""

from __future__ import annotations

from typing import Final

from batch.folder import Unusable
from service.contract.causes import ApiCode, BatchCode, Refusal
from service.contract.errors import ServiceError

STOPPING: Final = "stopping"  # the reason at the end of the process


class BatchRefused(ServiceError):
    """The code is a BatchCode, ``stopping``, or the ApiCode ``too_large``, ``no_room`` or ``not_found``."""


def no_room() -> BatchRefused:
    return BatchRefused("There is no disk space for another batch.", code=ApiCode.NO_ROOM)


def off(reason: str) -> BatchRefused:
    code = Refusal.STOPPING if reason == STOPPING else BatchCode.BATCHES_OFF
    return BatchRefused(f"Batches are off: {reason}.", code=code)


def of_unusable(error: Unusable) -> BatchRefused:
    """Map a failure of the store: a full or slow disk may pass, damage does not."""
    return off(error.reason) if error.reason == "damaged" else no_room()
