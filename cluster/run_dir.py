"""The folder of one of the cluster's processes: locked, with its logs."""

from __future__ import annotations

import dataclasses
import os
from contextlib import ExitStack
from typing import Final

from ray import serve

from service.contract.errors import SettingsError
from service.main import lock_run_dir
from service.settings import Settings
from service.telemetry.logs import Logs

MOST_FOLDERS: Final = 1000  # of one kind on one machine


def open_run_dir(settings: Settings, kind: str, stack: ExitStack) -> tuple[Settings, int]:
    """Open ``KIND-N`` below the run directory, and the logs there, until ``stack`` is closed.

    N is this replica's rank, or the next number that is free: a rank may change while its replica runs, so
    that another has its folder. Returns the settings with that folder, and N. Raises RuntimeError.
    """
    rank = serve.get_replica_context().rank.rank
    for number in (rank, *range(MOST_FOLDERS)):
        own = dataclasses.replace(settings, run_dir=settings.run_dir / f"{kind}-{number}")
        try:
            lock = lock_run_dir(own.run_dir, must_write=True)
        except SettingsError as error:
            if error.code != "run_dir_taken":
                raise RuntimeError(f"{error.message} {error.remedy} ({error.code})") from None
            continue
        if lock is not None:
            stack.callback(os.close, lock)
        logs = Logs.of(own)
        logs.open()
        stack.callback(logs.close)
        return own, number
    raise RuntimeError(f"All run directories below {settings.run_dir} are taken.")
