"""Judge the rows of served batches in the background: a thread submits units, and writes how they ended.

Before a unit is submitted, a crash is counted in advance for its rows; their outcome takes it back. So rows
with which the process ended are known at the next start, and judged alone from then on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final, Protocol

from batch.flight import Flight
from batch.folder import Unusable
from batch.records import Batch, Outcome, State, Unit
from batch.sources import Sources
from batch.store import Store, crashed
from service.contract.protocols import Submits
from service.contract.status import Phase, Snapshot
from service.telemetry.batch_gauges import Figures

READERS: Final = 2  # threads that open and submit pictures
WAIT_SECONDS: Final = 0.5  # for the model, or after a refusal
IDLE_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 5.0  # after the disk was full
SWEEP_SECONDS: Final = 60.0
RATE_SECONDS: Final = 60.0  # the last so many count for the rate
LANDING_SECONDS: Final = 0.5  # at the stop
log = logging.getLogger(__name__)


class Application(Submits, Protocol):
    def snapshot(self) -> Snapshot: ...


class Runner:
    """Works through the batches of ``store``. ``open_store`` opens it unless it is open; ``window`` returns
    how many rows may be submitted at once."""

    def __init__(
        self,
        store: Store,
        sources: Sources,
        application: Application,
        *,
        open_store: Callable[[], None],
        window: Callable[[], int],
    ) -> None:
        self._store = store
        self._sources = sources
        self._application = application
        self._open_store = open_store
        self._window = window
        self._figures = Figures({}, 0)
        self._landed: SimpleQueue[Flight] = SimpleQueue()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="batch-submit")
        # The rest belongs to the thread.
        self._flights: list[Flight] = []
        self._unwritten: list[Outcome] = []
        self._turns: dict[str, int] = {}  # when each caller was served last
        self._turn = 0
        self._not_before = 0.0  # monotonic; no submission before, after a refusal
        self._sweep_at = 0.0
        self._paused: str | None = None  # why
        self._known: dict[int, Batch] = {}
        self._rates: dict[int, Rate] = {}

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def wake(self) -> None:
        """There is a new batch, or one was cancelled."""
        self._wake.set()

    def stop(self, wait: float) -> None:
        """Cancel what is submitted, write what has ended, end the thread within ``wait`` seconds."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(wait)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def figures(self) -> Figures:
        """Return what the metrics show, as of the last step."""
        return self._figures

    def seconds_left(self, batch: Batch) -> float | None:
        """Return the estimated time to the end of a batch by the rate it had lately; None without one."""
        rate = self._rates.get(batch.number)
        return None if rate is None else rate.seconds_for(batch.left)

    # ---- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                wait = self._step()
                self._pause(None)
            except Unusable as error:
                self._pause(error)
                wait = PAUSE_SECONDS
            except Exception as error:  # a bug must not end the service, which restarts with the same batches
                log.error(
                    "BROKEN | MSG=exception in the runner of batches | ERROR=%s",
                    type(error).__name__,
                    exc_info=True,
                )
                wait = PAUSE_SECONDS
            self._wake.wait(wait)
        self._land()

    def _step(self) -> float:
        """Write outcomes and submit more rows; return how long to wait for an event, in seconds. Raises
        Unusable."""
        self._open_store()
        self._collect()
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + SWEEP_SECONDS
            self._expire()
        active = {batch.number: batch for batch in self._store.active()}
        for flight in self._flights:
            if flight.unit.batch not in active:
                flight.cancel()
        chosen = self._choose(active)
        if self._unwritten or chosen:
            self._store.record(self._unwritten, [flight.unit for flight in chosen])
            self._count(self._unwritten)
            self._unwritten = []
        for flight in chosen:
            self._flights.append(flight)
            self._pool.submit(self._submit, flight)
        self._log_ended(active)
        self._figures = Figures(self._store.counts(), sum(batch.left for batch in active.values()))
        return WAIT_SECONDS if active else IDLE_SECONDS

    def _collect(self) -> None:
        """Take the flights that have landed."""
        while not self._landed.empty():
            flight = self._landed.get()
            self._flights.remove(flight)
            self._unwritten += flight.outcomes()
            if flight.refused:
                self._not_before = time.monotonic() + WAIT_SECONDS
            if (error := flight.unexpected) is not None:
                log.error("BROKEN | MSG=exception while a row was submitted | ERROR=%s", type(error).__name__)

    def _choose(self, active: dict[int, Batch]) -> list[Flight]:
        """Return the flights to submit now: callers in turn, each with its oldest batch."""
        if self._application.snapshot().phase is not Phase.LOADED or time.monotonic() < self._not_before:
            return []
        chosen: list[Flight] = []
        waiting: dict[str, list[Batch]] = {}
        for batch in active.values():
            waiting.setdefault(batch.caller, []).append(batch)
        while waiting and sum(len(one.unit.positions) for one in self._flights + chosen) < self._window():
            if any(one.unit.crashes for one in self._flights + chosen):
                break  # judged alone
            caller = min(waiting, key=lambda name: self._turns.get(name, 0))
            batch = waiting[caller][0]
            unit = self._next(batch, chosen)
            if unit is None:
                waiting[caller].pop(0)
                if not waiting[caller]:
                    del waiting[caller]
                continue
            if unit.crashes and (self._flights or chosen):
                break
            self._turn += 1
            self._turns[caller] = self._turn
            chosen.append(Flight(batch, unit, self._has_landed))
        self._turns = {
            name: turn for name, turn in self._turns.items() if name in {b.caller for b in active.values()}
        }
        return chosen

    def _next(self, batch: Batch, chosen: Sequence[Flight]) -> Unit | None:
        """Return the next unit of a batch; the rows of one that has crashed too often fail."""
        while True:
            flying = [
                position
                for flight in (*self._flights, *chosen)
                if flight.unit.batch == batch.number
                for position in flight.unit.positions
            ]
            flying += [one.position for one in self._unwritten if one.batch == batch.number]
            unit = self._store.next_unit(batch.number, flying)
            failures = [] if unit is None else crashed(unit)
            if not failures:
                return unit
            log.error("BATCH_ROW_CRASHED | BATCH=%s | ROWS=%d", batch.short_id, len(failures))
            self._unwritten += failures

    def _submit(self, flight: Flight) -> None:
        flight.submit(self._application, lambda: self._sources.open(flight.batch, flight.unit.picture))

    def _has_landed(self, flight: Flight) -> None:
        self._landed.put(flight)
        self._wake.set()

    def _land(self) -> None:
        """At the stop: cancel everything and write how it ended, so that it counts as no crash."""
        for flight in self._flights:
            flight.cancel()
        end = time.monotonic() + LANDING_SECONDS
        while self._flights and time.monotonic() < end:
            self._collect()
            time.sleep(0.02)
        try:
            self._store.record(self._unwritten, [])
        except Unusable as error:
            log.warning("BATCHES_PAUSED | REASON=%s | DETAIL=%s", error.reason, error.detail)

    # ---- what is known -----------------------------------------------------------------------------------

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        now = time.monotonic()
        for outcome in outcomes:
            if outcome.answer is not None or outcome.code is not None:
                self._rates.setdefault(outcome.batch, Rate()).ended(now)

    def _log_ended(self, active: dict[int, Batch]) -> None:
        """Log the batches that have ended since the last step, and close their archives."""
        for number in self._known.keys() - active.keys():
            batch = self._store.find(self._known[number].id)
            self._sources.close(self._known[number].id)
            self._rates.pop(number, None)
            if batch is not None and batch.state is not State.EXPIRED:
                log.info(
                    "BATCH_ENDED | BATCH=%s | STATE=%s | ROWS=%d | DONE=%d | FAILED=%d | DURATION=%.0fs",
                    *(batch.short_id, batch.state, batch.total, batch.done, batch.failed),
                    max(0.0, time.time() - batch.created),
                )
        self._known = active

    def _expire(self) -> None:
        if expired := self._store.expire():
            for batch in expired:
                self._sources.close(batch.id)  # a thumbnail may have opened it
            log.info("BATCHES_EXPIRED | COUNT=%d", len(expired))

    def _pause(self, error: Unusable | None) -> None:
        """Log why nothing can be written, and later that it can."""
        reason = None if error is None else error.reason
        if reason == self._paused:
            return
        self._paused = reason
        if error is not None:
            log.error("BATCHES_PAUSED | REASON=%s | DETAIL=%s", error.reason, error.detail)
        else:
            log.info("BATCHES_RESUMED")


class Rate:
    """How many rows ended in the last RATE_SECONDS."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._since = 0.0

    def ended(self, now: float) -> None:
        if not self._times:
            self._since = now
        self._times.append(now)
        while self._times[0] < now - RATE_SECONDS:
            self._since = self._times.popleft()

    def seconds_for(self, rows: int) -> float | None:
        """Return the seconds that ``rows`` more take; None before enough have ended."""
        spent = time.monotonic() - self._since
        count = len(self._times) - 1
        return rows * spent / count if count > 0 and spent > 0 else None
