"""Fetches the model's files and loads them, with retries and growing pauses."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from service.contract.errors import (
    DamagedFile,
    DamagedFolder,
    ModelError,
    PermanentLoadError,
    ServiceError,
    ShuttingDown,
    TransientLoadError,
    UnsupportedModel,
)
from service.contract.events import NO_EVENTS, Listener
from service.contract.log_line import fields
from service.contract.protocols import Converting, Listed, Model
from service.contract.status import Progress, Status
from service.contract.times import LONGEST_PAUSE
from service.hub.progress import Progress as HubProgress
from service.hub.resolve import local_folder, shown_name
from service.inference import calibrating
from service.settings import Settings

_log = logging.getLogger(__name__)


class Resolve(Protocol):
    """``service.hub.resolve.resolve``, or what stands in for it."""

    def __call__(
        self,
        model: str,
        *,
        revision: str | None,
        cache_dir: Path | None,
        progress: Callable[[HubProgress], None],
        endpoint: str | None,
        verify: str,
        on_damaged: Callable[[Sequence[str]], None],
    ) -> Path: ...


class Loader:
    """Loads the model; one ``run`` at a time. Setting ``stopping`` ends it at the next step.

    ``listed`` returns the checksums of fetched files; ``pause`` is the seconds after the first failed
    attempt, doubled after each.
    """

    def __init__(
        self,
        settings: Settings,
        model: Model,
        status: Status,
        resolve: Resolve,
        events: Listener = NO_EVENTS,
        listed: Listed = lambda path: None,
        *,
        pause: float = 0.0,
    ) -> None:
        self._settings = settings
        self._model = model
        self._status = status
        self._resolve = resolve
        self._events = events
        self._listed = listed
        self._pause = pause
        self._damaged = False  # this run has found damaged files
        self._read = False  # this attempt has begun to read the weights
        self.stopping = threading.Event()

    @property
    def _fetched(self) -> bool:
        """Whether the files come from a hub, so that a damaged one can be fetched again."""
        return local_folder(self._settings.model) is None

    def run(self, verify: str | None = None) -> bool:
        """Load the model; True if damaged files were found and replaced. ``verify`` overrides the setting.

        After a failure to read the files, the next attempt verifies them in full. Raises the error of the
        last attempt, or ShuttingDown.
        """
        attempts, verify = self._settings.load_attempts, verify or self._settings.verify
        self._damaged, doubted = False, None
        for attempt in range(1, attempts + 1):
            try:
                self._try(attempt, verify, doubted)
                return self._damaged
            except ModelError as error:
                self._status.update(last_error=error.message)
                doubted = error if isinstance(error, PermanentLoadError) else None
                last = attempt == attempts or not self._worth_another(error, verify)
                if last and doubted is not None:
                    raise
                pause = 0.0 if doubted else min(LONGEST_PAUSE, self._pause * 2 ** (attempt - 1))
                more = fields(again_in=None if last else f"{pause:g}s")
                _log.warning(
                    "MODEL_ATTEMPT_FAILED | ATTEMPT=%d/%d%s%s", attempt, attempts, error_fields(error), more
                )
                if last:
                    raise
                if self._read or isinstance(error, DamagedFile):
                    verify = "full"
                self._say(f"waiting to try again: {error.message}", attempt)
                self.stopping.wait(pause)
        raise AssertionError("not reached: the last attempt returns or raises")

    def _worth_another(self, error: ModelError, verify: str) -> bool:
        """Whether to try again. An unsupported configuration may be a damaged file: only a checksum can
        tell."""
        if not isinstance(error, PermanentLoadError):
            return True
        return isinstance(error, UnsupportedModel) and self._read and self._fetched and verify != "full"

    def _try(self, attempt: int, verify: str, doubted: ModelError | None) -> None:
        """Make one attempt and report it."""
        began, outcome = time.monotonic(), "loaded"
        try:
            self._load(attempt, verify, doubted)
        except ServiceError as error:
            outcome = error.code
            raise
        finally:
            self._events.load_attempted(outcome, time.monotonic() - began)

    def _load(self, attempt: int, verify: str, doubted: ModelError | None) -> None:
        """Make one attempt. Raises ``doubted``, the last attempt's error, again if no file was damaged."""
        began, self._read = time.monotonic(), False
        settings = self._settings
        _log.info(
            "MODEL_LOADING | MODEL=%s | ATTEMPT=%d/%d",
            shown_name(settings.model),
            attempt,
            settings.load_attempts,
        )
        self._say("resolving the model's files", attempt)

        def progress(now: HubProgress) -> None:
            self._go_on()
            self._say(f"fetching {now.file}", attempt, now.done_bytes, now.total_bytes)

        try:
            folder = self._resolve(
                settings.model,
                revision=settings.revision,
                cache_dir=settings.cache_dir,
                progress=progress,
                endpoint=settings.hub_endpoint,
                verify=verify,
                on_damaged=self._found_damaged,
            )
            self._go_on()
            if verify == "full" and isinstance(self._model, Converting):
                self._say("checking the converted weights", attempt)
                if not self._model.verify_converted(folder, self._go_on, self._listed):
                    self._found_damaged(["converted"])
            if doubted is not None and not self._damaged:
                raise doubted
            self._say("reading the weights", attempt)
            self._read = True
            self._model.load(folder)
        except DamagedFile as error:
            if not self._fetched:
                raise DamagedFolder(error.message) from error
            raise
        except ServiceError:
            raise
        except Exception as error:
            raise TransientLoadError(f"Unexpected {type(error).__name__} while loading the model.") from error
        _log.info("MODEL_LOADED | DURATION=%.2fs | ATTEMPT=%d", time.monotonic() - began, attempt)
        # After that line, so that the doctor takes the next one as the end of an ignored calibration.
        self._status.update(calibration=calibrating.read(folder, self._listed, self._go_on))

    def _found_damaged(self, names: Sequence[str]) -> None:
        self._damaged = True
        _log.error("FILES_DAMAGED | FILES=%s", ",".join(names))

    def _go_on(self) -> None:
        """The cancel point. Raises ShuttingDown."""
        if self.stopping.is_set():
            raise ShuttingDown("The service is stopping.")

    def _say(self, message: str, attempt: int, done: int = 0, total: int = 0) -> None:
        progress = Progress(message, done, total, attempt, self._settings.load_attempts)
        self._status.update(progress=progress)


def error_fields(error: ServiceError) -> str:
    """Return the error as log fields: its class, our message, its cause's class."""
    cause = type(error.__cause__).__name__ if error.__cause__ else None
    return fields(error=type(error).__name__, msg=error.message, cause=cause)
