"""Writes the converted weights after the first verdict, so that the next start is faster."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from service.contract.errors import DamagedFile, ShuttingDown
from service.contract.protocols import Converting, Listed, Model

_log = logging.getLogger(__name__)


class Converter:
    """``arm`` it after a load; ``begin``, called at every success of the model, then starts a thread once.

    ``listed`` returns the checksums of fetched files. ``on_damaged`` is called by that thread when the
    weights on disk are not what was fetched.
    """

    def __init__(self, model: Model, listed: Listed, on_damaged: Callable[[], None]) -> None:
        self._model = model
        self._listed = listed
        self._on_damaged = on_damaged
        self._lock = threading.Lock()  # guards _armed and _thread
        self._armed = False
        self._thread: threading.Thread | None = None
        self._reload_requested = False  # since the last success: a second reload would not help
        self._stopping = threading.Event()

    def arm(self) -> None:
        with self._lock:
            self._armed = True

    def begin(self) -> None:
        """Start the thread if a load has armed it. Costs next to nothing otherwise."""
        if not self._armed or not isinstance(self._model, Converting):
            return
        with self._lock:
            if not self._armed or self._stopping.is_set():
                return
            self._armed = False
            self._thread = threading.Thread(
                target=self._run, args=(self._model,), name="converter", daemon=True
            )
            self._thread.start()

    def stop(self, wait: float) -> bool:
        """Cancel, and wait up to ``wait`` seconds. False if the thread still runs."""
        self._stopping.set()
        with self._lock:
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(wait)
        return not thread.is_alive()

    def _run(self, model: Converting) -> None:
        began = time.monotonic()
        try:
            model.keep_converted(self._go_on, self._listed)
        except ShuttingDown:
            return
        except DamagedFile as error:
            _log.error("FILES_DAMAGED | MSG=%s", error.message)
            if not self._reload_requested:
                self._reload_requested = True
                self._on_damaged()
        except Exception as error:  # the next start is slower, nothing else
            _log.warning("CONVERTED_WEIGHTS_NOT_KEPT | ERROR=%s", type(error).__name__, exc_info=True)
        else:
            self._reload_requested = False
            _log.info("SETTLED | DURATION=%.2fs", time.monotonic() - began)

    def _go_on(self) -> None:
        """The cancel point. Raises ShuttingDown."""
        if self._stopping.is_set():
            raise ShuttingDown("The service is stopping.")
