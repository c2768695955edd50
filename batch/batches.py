"""Served batches: the facade behind the API and the page."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from batch import folder
from batch.accepting import Accepted, add_rows
from batch.errors import STOPPING, BatchRefused, no_room, of_unusable, off
from batch.folder import MOUNTS, Unusable
from batch.limits import DAY, DAYS_KEPT, GROUP
from batch.records import Batch, Result, State
from batch.rows import Columns
from batch.runner import Runner
from batch.sources import Sources
from batch.store import Store
from batch.uploads import Incoming, Uploads
from service.contract.causes import ApiCode, BatchCode
from service.contract.errors import ServiceError
from service.contract.times import STOP_BATCHES
from service.inference import jobs
from service.inference.background import LANE_SIZE
from service.settings import Settings

if TYPE_CHECKING:
    from service.application import Application

FOLDER: Final = "batches"
AHEAD: Final = 2  # batches of the engine that are submitted ahead
THUMBNAIL: Final = 96  # pixels of its longer side
THUMBNAIL_SECONDS: Final = 10.0
#: Reasons for being off that only a new start can change.
_FINAL: Final = ("network", "folder", "wal")
log = logging.getLogger(__name__)


class Batches:
    """Accepts batches and judges them in the background. Every method raises BatchRefused. Safe to call from
    any thread."""

    name: Final = "batches"

    def __init__(
        self,
        application: Application,
        settings: Settings,
        *,
        mounts: Path = MOUNTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``mounts`` lists the mounted file systems; ``clock`` returns Unix time."""
        self._application = application
        self._settings = settings
        self._mounts = mounts
        self._clock = clock
        self._store = Store(settings.run_dir / FOLDER, clock=clock)
        self._sources = Sources(self._store, settings.max_bytes)
        self._uploads = Uploads()
        self._runner = Runner(
            self._store, self._sources, application, open_store=self._open, window=self._window
        )
        self._started = False
        self._off: str | None = "not_started"  # why batches are off

    @property
    def off(self) -> str | None:
        """Why batches are off, or None: not_started, stopping, or the reason of an Unusable."""
        return self._off

    # ---- life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Go on with the batches of the store. Without a usable folder batches are off."""
        try:
            self._open()
        except Unusable as error:
            self._off = error.reason
            log.warning("BATCHES_OFF | REASON=%s | DETAIL=%s", error.reason, error.detail)
            if error.reason in _FINAL:
                return
        self._application.watch_batches(self._runner.figures)
        self._started = True
        self._runner.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs, or need not."""
        return not self._started or self._runner.alive

    def stop(self) -> None:
        """Stop judging; what is left goes on at the next start. Takes STOP_BATCHES seconds."""
        self._off = STOPPING
        if self._started:
            self._started = False
            self._runner.stop(STOP_BATCHES)
        self._sources.close()
        self._store.close()

    def _open(self) -> None:
        """Open the store unless it is open, again if its files were deleted. Raises Unusable."""
        if self._off == STOPPING or (self._off is None and not self._store.lost):
            return
        if self._off is None:
            log.error("BATCHES_LOST | FOLDER=%s", FOLDER)
            self._off = "folder"
            self._sources.close()
            self._store.close()
        folder.prepare(self._store.folder, self._mounts)
        try:
            self._store.open()
            active = self._store.active()
        except Unusable:
            self._store.close()
            raise
        except OSError as error:  # what an interrupted upload left cannot be deleted
            self._store.close()
            raise folder.unusable(error) from error
        if self._off == STOPPING:
            return  # stopped meanwhile: opening reads the whole file
        self._off = None
        log.info("BATCHES_ON | ACTIVE=%d | WAITING=%d", len(active), sum(one.left for one in active))

    def _window(self) -> int:
        """Return how many rows may be submitted at once."""
        most = 1 if self._settings.backend == "modelscope" else self._settings.max_batch
        ahead = AHEAD * jobs.Limits(max_batch=most).batch_on(self._application.snapshot().device)
        return min(ahead, LANE_SIZE - GROUP)  # the last unit may exceed it, and the lane refuses more

    # ---- upload ------------------------------------------------------------------------------------------

    @contextmanager
    def receiving(self, caller: str, size: int, idempotency: str = "") -> Iterator[Incoming]:
        """Receive a file of ``size`` bytes, 0 if unknown, inside the context. ``caller`` is who sends it.

        ``idempotency`` identifies the upload among those of its caller: a repeated one is received even at
        the limit of batches."""
        with self._refusing():
            key = hashlib.sha256(f"{caller}\0{idempotency}".encode()).digest() if idempotency else None
            repeated = key is not None and self._store.by_idempotency(key) is not None
            held = self._store.held()
            active = [] if repeated else [batch.caller for batch in self._store.active()]
            path = self._store.part_of(secrets.token_hex(16))
            incoming = self._uploads.begin(path, caller, size, held=held, active=active)
            incoming.key = key
        try:
            yield incoming
        finally:
            incoming.discard()

    def create(
        self,
        incoming: Incoming,
        name: str,
        *,
        owner: str,
        columns: Columns | None = None,
    ) -> Batch:
        """Accept a received file, whose form the suffix of ``name`` tells. A repeated upload returns the
        batch of the first one.

        ``owner`` is the name of the API key it belongs to, "" for whoever knows its id. Raises ListError,
        too."""
        columns, key = columns or Columns(), incoming.key
        with self._refusing():
            digest = hashlib.sha256(incoming.finish() + repr((Path(name).suffix, columns)).encode()).digest()
            if (first := self._repeated(key, digest)) is not None:
                return first
            batch_id = f"{self._settings.instance:02x}{secrets.token_hex(15)}"
            expires = self._clock() + DAYS_KEPT * DAY
            number = self._store.begin(batch_id, owner=owner, caller=incoming.caller, expires=expires)
            try:
                accepted = self._add(number, batch_id, incoming, name, columns)
                is_first = self._store.accept(
                    number,
                    form=accepted.form,
                    format=accepted.format,
                    size=accepted.size + (incoming.size if accepted.archive else 0),
                    idempotency=key,
                    digest=digest,
                )
            except BaseException:
                self._discard(number, batch_id)
                raise
            if not is_first:
                self._discard(number, batch_id)
                if (first := self._repeated(key, digest)) is not None:
                    return first
                raise no_room()
            batch = self._known(batch_id)
        log.info(
            "BATCH_ACCEPTED | BATCH=%s | FORM=%s | ROWS=%d | FAILED=%d | BYTES=%d",
            *(batch.short_id, batch.form, batch.total, batch.failed, incoming.size),
        )
        self._runner.wake()
        return batch

    def _repeated(self, key: bytes | None, digest: bytes) -> Batch | None:
        """Return the batch of an earlier upload with the same idempotency key and content."""
        found = self._store.by_idempotency(key) if key is not None else None
        if found is None:
            return None
        if found[1] != digest:
            raise BatchRefused(
                "This idempotency key was used with another file.", code=BatchCode.IDEMPOTENCY_CONFLICT
            )
        return found[0]

    def _add(self, number: int, batch_id: str, incoming: Incoming, name: str, columns: Columns) -> Accepted:
        accepted = add_rows(
            self._store, number, batch_id, incoming.path, name, columns, self._settings.max_bytes
        )
        if accepted.archive:
            incoming.path.replace(self._store.archive_of(batch_id))
        self._store.sync_folder()
        return accepted

    def _discard(self, number: int, batch_id: str) -> None:
        for path in (self._store.archive_of(batch_id), self._store.pictures_of(batch_id)):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        with suppress(Unusable):  # else the next start drops it
            self._store.discard(number)

    # ---- what is known -----------------------------------------------------------------------------------

    def find(self, batch_id: str, owner: str) -> Batch:
        """Return a batch of ``owner``, the name of a key or ""."""
        with self._refusing():
            batch = self._known(batch_id)
        if batch.owner not in ("", owner):
            raise _not_found()
        if batch.state is State.EXPIRED:
            raise BatchRefused("The batch has expired.", code=BatchCode.EXPIRED, days=DAYS_KEPT)
        return batch

    def status(self, batch_id: str, owner: str) -> dict[str, Any]:
        """Return the public state of a batch."""
        batch = self.find(batch_id, owner)
        left = self._runner.seconds_left(batch)
        return {
            "id": batch.id,
            "state": batch.state,
            **({} if batch.code is None else {"code": batch.code}),
            "rows": {"total": batch.total, "done": batch.done, "failed": batch.failed},
            "seconds_left": 0.0 if not batch.left else None if left is None else round(left, 1),
            "created": int(batch.created),
            "expires": int(batch.expires),
            "form": batch.form,
            "columns": list(batch.columns),
        }

    def results(self, batch: Batch, after: int, most: int) -> list[Result]:
        """Return up to ``most`` finished rows after the position ``after``; see Store.results."""
        with self._refusing():
            found = self._store.results(batch, after, most)
        if not found:
            self.find(batch.id, batch.owner)  # none are left of a batch that has expired meanwhile
        return found

    def calibrated(self, batch: Batch) -> bool:
        """Return whether any row was judged with a calibration."""
        with self._refusing():
            return self._store.calibrated(batch.number)

    def cancel(self, batch_id: str, owner: str) -> bool:
        """Judge no more rows of a batch; its results stay. Of one that has ended, delete everything. Returns
        whether it was deleted."""
        batch = self.find(batch_id, owner)
        with self._refusing():
            if self._store.move(batch.number, State.CANCELLED):
                log.info("BATCH_CANCELLED | BATCH=%s", batch.short_id)
                self._runner.wake()
                return False
            self._sources.close(batch.id)
            self._store.delete(batch)
            log.info("BATCH_DELETED | BATCH=%s", batch.short_id)
            return True

    def thumbnail(self, batch_id: str, owner: str, position: int) -> bytes | None:
        """Return a small JPEG of a row's picture, None if there is no such row or it cannot be read."""
        batch = self.find(batch_id, owner)
        with self._refusing():
            found = self._store.picture(batch.number, position)
            if found is None or found[1] is not None:
                return None if found is None else found[1]
            end = time.monotonic() + THUMBNAIL_SECONDS
            try:
                data = self._sources.open(batch, found[0])
                made = self._application.thumbnail(data, THUMBNAIL, deadline=end, caller=batch.caller)
            except (ServiceError, MemoryError):
                return None
            with suppress(Unusable):
                self._store.keep_thumbnail(batch.number, found[0].number, made)
            return made

    def _known(self, batch_id: str) -> Batch:
        batch = self._store.find(batch_id)
        if batch is None:
            raise _not_found()
        return batch

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Map failures of store and disk; refuse while batches are off."""
        if self._off is not None:
            raise off(self._off)
        try:
            yield
        except Unusable as error:
            raise of_unusable(error) from error
        except OSError as error:
            raise of_unusable(folder.unusable(error)) from error


def _not_found() -> BatchRefused:
    return BatchRefused("There is no such batch.", code=ApiCode.NOT_FOUND)
