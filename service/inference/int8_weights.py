"""Decides whether to compute in int8, and has the weights made and checked in a child process.

``auto`` uses int8 only for weights whose check passed, so a new model begins in the next format.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from service.contract.errors import TransientLoadError, UnsupportedModel
from service.contract.protocols import CancelPoint

if TYPE_CHECKING:
    from ofa.int8_file import Check
    from ofa.model import EntailmentModel

_ROOT: Final = Path(__file__).resolve().parents[2]
_POLL: Final = 0.2  # seconds between cancel points
_log = logging.getLogger(__name__)


class Int8Weights:
    """The int8 weights of one model folder on a CPU.

    Args:
        dtype: as set by the user: only ``auto`` and ``int8`` use them.
        guard: whether the precision guard is on, without which ``auto`` does not use int8.
    """

    def __init__(self, folder: Path, cache: Path | None, dtype: str, guard: bool) -> None:
        self._folder, self._cache = folder, cache
        self._forced = dtype == "int8"
        self._used = self._forced or (dtype == "auto" and guard and cache is not None)

    def applied(self, model: EntailmentModel) -> EntailmentModel | None:
        """``model`` in int8, if that is to be used. Makes the weights if int8 was asked for.

        Raises UnsupportedModel when int8 was asked for and cannot be used, TransientLoadError when the
        weights cannot be made.
        """
        from ofa import int8
        from ofa.int8_file import Int8File

        if self._forced and (not int8.supported() or self._cache is None):
            raise UnsupportedModel(
                "--dtype int8 needs a processor with VNNI or AMX, and --converted-cache on.",
                remedy="Use --dtype auto.",
            )
        if not self._used or not int8.supported() or self._cache is None:
            return None
        file = Int8File(self._folder, self._cache)
        if self._forced and not file.current:
            self._make(0, lambda: None)
        check = file.check()
        if check is None or not (self._forced or check.passed):
            return None
        state = file.read_state()
        return None if state is None else model.in_int8(state)

    def check(self, cancel_point: CancelPoint) -> Check | None:
        """Make and check the weights if that was not done yet and is worth it; the result if it was.

        Raises TransientLoadError, OSError, and what ``cancel_point`` raises.
        """
        from ofa import int8
        from ofa.int8_check import PAIRS
        from ofa.int8_file import Int8File

        if self._forced or not self._used or not int8.supported() or self._cache is None:
            return None
        file = Int8File(self._folder, self._cache)
        if not file.worthwhile or file.check() is not None:
            return None
        began = time.monotonic()
        self._make(PAIRS, cancel_point)
        check = file.check()
        if check is not None:
            _log.info(
                "INT8_CHECKED | PASSED=%s | PAIRS=%d | CHANGED=%d | ERROR=%.3f | MARGIN=%g | DURATION=%.0fs",
                "yes" if check.passed else "no",
                check.pairs,
                check.changed,
                check.largest_error,
                check.margin,
                time.monotonic() - began,
            )
        return check

    def _make(self, pairs: int, cancel_point: CancelPoint) -> None:
        arguments = (str(self._folder), str(self._cache), str(pairs), str(os.getpid()))
        process = subprocess.Popen(
            [sys.executable, "-m", "service.inference.int8_child", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=_ROOT,
            process_group=0,  # shields it from Ctrl-C; in a session of its own, its priority would not count
        )
        try:
            while True:
                cancel_point()
                try:
                    code = process.wait(_POLL)
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()
            process.wait()
        if code:
            raise TransientLoadError(f"The int8 weights could not be made (the process ended with {code}).")
