"""Decides whether to compute in int8, and has the weights made and checked in a child process.

``auto`` uses int8 only for weights whose check passed, so a new model begins in the next format.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from service.contract.errors import TransientLoadError, UnsupportedModel
from service.contract.protocols import CancelPoint

if TYPE_CHECKING:
    from ofa.int8_file import Check
    from ofa.model import EntailmentModel

_ROOT: Final = Path(__file__).resolve().parents[2]
NICE: Final = 19  # the lowest priority
_POLL: Final = 0.2  # seconds between cancel points
_LAST: Final = 300  # bytes of the child's errors
BYTES: Final = 8  # of memory that a check takes for each parameter: 3.5 GiB for the large model, measured
#: Seconds after which a process that makes weights is given up: with their check, and without it.
_LONGEST, _LONGEST_FORCED = 7200.0, 240.0
_log = logging.getLogger(__name__)


class Int8Weights:
    """The int8 weights of one model folder on a CPU.

    Args:
        dtype: as set by the user: only ``auto`` and ``int8`` use them.
        threads: CPU threads of the process that makes them.
        guard: whether the precision guard is on, without which ``auto`` does not use int8.
    """

    def __init__(self, folder: Path, cache: Path | None, dtype: str, guard: bool, threads: int) -> None:
        self._folder, self._cache, self._threads = folder, cache, threads
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
        if model.conversion is None or not model.conversion.of_same_source(file):
            return None  # the weights have been replaced since the model was read
        state = file.read_state()
        return None if state is None else model.in_int8(state)

    def check(
        self, cancel_point: CancelPoint, parameters: int, memory_left: Callable[[], int]
    ) -> Check | None:
        """Make and check the weights if that was not done yet and is worth it; the result if it was.

        Not done either where it takes more memory than ``memory_left`` bytes, since a limit on a container's
        memory may end the whole container, at this and at every following start.

        Raises TransientLoadError, OSError, and what ``cancel_point`` raises.
        """
        from ofa import int8
        from ofa.int8_check import PAIRS
        from ofa.int8_file import Int8File

        if self._forced or not self._used or not int8.supported() or self._cache is None:
            return None
        file = Int8File(self._folder, self._cache)
        known = file.check()
        if not file.worthwhile or (known is not None and known.pairs):  # without pairs: made for --dtype int8
            return None
        needed, left = BYTES * parameters, memory_left()
        if left < needed:
            _log.warning("INT8_NOT_CHECKED | NEEDED=%d | MEMORY_LEFT=%d", needed, left)
            return None
        began = time.monotonic()
        self._make(PAIRS, cancel_point)
        check = file.check()
        if check is not None:
            _log.info(
                "INT8_CHECKED | PASSED=%s | PAIRS=%d | SMALL=%d | CHANGED=%d | ERROR=%.3f | MARGIN=%g | "
                "DURATION=%.0fs",
                "yes" if check.passed else "no",
                check.pairs,
                check.small,
                check.changed,
                check.largest_error,
                check.margin,
                time.monotonic() - began,
            )
        return check

    def _make(self, pairs: int, cancel_point: CancelPoint) -> None:
        """Run the child to its end. Raises TransientLoadError, OSError, and what ``cancel_point`` raises."""
        assert self._cache is not None
        places = (str(self._folder.absolute()), str(self._cache.absolute()))
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "service.inference.int8_child"),
                    *(*places, str(pairs), str(self._threads), str(NICE if pairs else 0), str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=_ROOT,
                process_group=0,  # shields it from Ctrl-C; in its own session its priority would not count
            )
            try:
                code = _wait(process, cancel_point, _LONGEST if pairs else _LONGEST_FORCED)
            finally:
                process.kill()
                process.wait()
            if code:
                raise TransientLoadError(
                    f"The int8 weights could not be made: the process ended with {code}: {_last_line(errors)}"
                )


def _wait(process: subprocess.Popen[bytes], cancel_point: CancelPoint, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        cancel_point()
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL)
    raise TransientLoadError(f"The int8 weights were not made within {seconds:g} s.")


def _last_line(errors: IO[bytes]) -> str:
    """The error of the child: it judges bundled pairs only, so there is no user's text in it."""
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - _LAST))
    return (errors.read().decode(errors="replace").splitlines() or ["no message"])[-1]
