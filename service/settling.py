"""What may wait until the first verdict: the files that were believed at the start are hashed in full, and
what makes the next start faster is kept. In a thread of its own, once for each load."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from service.errors import ServiceError, ShuttingDown
from service.progress import Show
from service.protocols import Known, Model, Settling

_log = logging.getLogger(__name__)


class Settler:
    """``arm`` after a load, ``begin`` at every proof that the model answers: the first one starts the work.

    ``examine`` hashes fetched files, telling its progress, and hands on what it then knows of them: None when
    they are not what was fetched. ``on_harmed`` is called, by the settler's thread, when what was loaded is
    not to be believed.
    """

    def __init__(
        self,
        model: Model,
        examine: Callable[[Show], Known | None],
        on_harmed: Callable[[], None],
    ) -> None:
        self._model = model
        self._examine = examine
        self._on_harmed = on_harmed
        self._lock = threading.Lock()  # guards _armed and _thread
        self._armed = False
        self._thread: threading.Thread | None = None
        self._doubted = False  # a reload has been asked for, and nothing was found good since
        self._stopping = threading.Event()

    def arm(self) -> None:
        with self._lock:
            self._armed = True

    def begin(self) -> None:
        """Start, if a load has not been settled yet. Costs next to nothing otherwise."""
        if not self._armed:
            return
        with self._lock:
            if not self._armed or self._stopping.is_set():
                return
            self._armed = False
            self._thread = threading.Thread(target=self._run, name="settler", daemon=True)
            self._thread.start()

    def stop(self, wait: float) -> bool:
        """Cancel, and wait for the end; False if it did not come in ``wait`` seconds."""
        self._stopping.set()
        with self._lock:
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(wait)
        return not thread.is_alive()

    def _run(self) -> None:
        began = time.monotonic()
        try:
            known = self._examine(lambda progress: self._go_on())
            good = known is not None
            if known is not None and isinstance(self._model, Settling):
                good = self._model.settle(self._go_on, known)
        except ShuttingDown:
            return
        except (ServiceError, OSError) as error:
            # Nothing is known to be wrong; the next start has another chance.
            _log.warning("FILES_NOT_CHECKED | ERROR=%s", type(error).__name__)
            return
        doubted, self._doubted = self._doubted, not good
        if good:
            _log.info("FILES_CHECKED | DURATION=%.2fs", time.monotonic() - began)
        elif doubted:  # once more would end no better: a disk that does not keep what it is given
            _log.error("FILES_DAMAGED | The files differ again after they were verified and loaded again.")
        else:
            _log.error("FILES_DAMAGED | The files are verified and loaded again.")
            self._on_harmed()

    def _go_on(self) -> None:
        """The cancel point of everything that runs here."""
        if self._stopping.is_set():
            raise ShuttingDown("The service is stopping.")
