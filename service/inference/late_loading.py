"""Loads weights on first need in a thread of its own, so that the engine computes other requests
meanwhile."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from service.contract.errors import InferenceError
from service.inference.jobs import unexpected

#: Seconds after a failed load until the next attempt. Longer than the default time limit of a request, so
#: that one that waited for the load meets its error.
RETRY: Final = 30.0
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Shared(Generic[T]):
    """A load whose result the threads that need it at the same time share; it is freed after the last."""

    def __init__(self, load: Callable[[], T]) -> None:
        self._load = load
        self._lock = threading.Lock()  # held while loading
        self._result: Callable[[], T | None] = lambda: None

    def __call__(self) -> T:
        """Raises what the load raises."""
        with self._lock:
            result = self._result()
            if result is None:
                result = self._load()
                self._result = weakref.ref(result)
            return result


class LateLoader:
    """One load at a time. ``ready`` is called by its thread after each, also after a failed one."""

    def __init__(self, ready: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._ready = ready
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._thread: threading.Thread | None = None
        self._stopping = False
        # The last failure of each model: its error, and when the next attempt may be made.
        self._failures: weakref.WeakKeyDictionary[object, tuple[InferenceError, float]] = (
            weakref.WeakKeyDictionary()
        )

    def begin(self, model: object, name: str, load: Callable[[], object]) -> None:
        """Start ``load`` of ``model``'s weights ``name``, unless another load runs: ``ready`` follows it too.
        ``load`` raises InferenceErrors.

        Raises the error of the model's last load, if that failed less than RETRY seconds ago.
        """
        with self._lock:
            if self._thread is not None or self._stopping:
                return
            error, again_at = self._failures.get(model, (None, 0.0))
            if error is not None and self._clock() < again_at:
                raise type(error)(error.message)
            thread = threading.Thread(
                target=self._run, args=(model, name, load), name="late-loader", daemon=True
            )
            thread.start()  # first, since it may fail
            self._thread = thread

    def stop(self, wait: float) -> bool:
        """Start no further load, and wait up to ``wait`` seconds. False if one still runs."""
        with self._lock:
            self._stopping = True
            thread = self._thread
        if thread is not None:
            thread.join(wait)
        return thread is None or not thread.is_alive()

    def _run(self, model: object, name: str, load: Callable[[], object]) -> None:
        began = time.monotonic()
        failure = None
        try:
            load()
        except Exception as error:
            known = error if isinstance(error, InferenceError) else unexpected(error)
            # Without its traceback, whose frames hold the memory that may be missing.
            failure = type(known)(known.message)
            _log.error(
                "WEIGHTS_NOT_LOADED | NAME=%s | ERROR=%s | MSG=%s | AGAIN_IN=%gs",
                name,
                type(error.__cause__ or error).__name__,
                failure.message,
                RETRY,
                exc_info=True,
            )
            del known
        else:
            _log.info("WEIGHTS_LOADED | NAME=%s | DURATION=%.2fs", name, time.monotonic() - began)
        with self._lock:
            self._thread = None
            self._failures.pop(model, None)
            if failure is not None:
                self._failures[model] = failure, self._clock() + RETRY
        del model
        self._ready()
