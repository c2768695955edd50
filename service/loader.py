"""Gets the model's files and loads them, with attempts and growing pauses between them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from service.errors import (
    DamagedFile,
    DamagedFolder,
    ModelError,
    PermanentLoadError,
    ServiceError,
    ShuttingDown,
    TransientLoadError,
)
from service.logs import fields
from service.observer import UNOBSERVED, Observer
from service.progress import Progress as HubProgress
from service.protocols import Model
from service.settings import Settings
from service.status import Progress, Status

_log = logging.getLogger(__name__)


class Resolve(Protocol):
    """``service.hub.resolve``, or what stands in for it."""

    def __call__(
        self,
        model: str,
        *,
        revision: str | None,
        cache_dir: Path | None,
        progress: Callable[[HubProgress], None],
        endpoint: str | None,
        verify: str,
    ) -> Path: ...


class Loader:
    """One ``run`` at a time. ``stopping``, once set, ends it at the next step."""

    def __init__(
        self,
        settings: Settings,
        model: Model,
        status: Status,
        resolve: Resolve,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._settings = settings
        self._model = model
        self._status = status
        self._resolve = resolve
        self._observer = observer
        self.stopping = threading.Event()

    @property
    def _fetched(self) -> bool:
        """Whether the files come from a hub, which a damaged one can be fetched from anew."""
        model = self._settings.model
        return model != "demo" and not Path(model).expanduser().is_dir()

    def run(self, verify: str | None = None) -> None:
        """Load the model, its files checked as the settings say unless ``verify`` says otherwise. Raises what
        ended the last attempt; ShuttingDown when told to stop."""
        attempts, verify = self._settings.load_attempts, verify or self._settings.verify
        for attempt in range(1, attempts + 1):
            try:
                self._try(attempt, verify)
                return
            except (PermanentLoadError, ShuttingDown):
                raise
            except ModelError as error:
                self._status.update(last_error=error.message)
                pause = self._settings.load_pause * 2 ** (attempt - 1)
                more = fields(again_in=f"{pause:g}s" if attempt < attempts else None)
                _log.warning("MODEL_ATTEMPT_FAILED | ATTEMPT=%d/%d%s%s", attempt, attempts, told(error), more)
                if attempt == attempts:
                    raise
                if isinstance(error, DamagedFile):
                    verify = "full"  # what a quick look believed is not to be believed
                self._say(f"waiting to try again: {error.message}", attempt)
                self.stopping.wait(pause)

    def _try(self, attempt: int, verify: str) -> None:
        """One attempt, told to the observer."""
        began, outcome = time.monotonic(), "loaded"
        try:
            self._load(attempt, verify)
        except ServiceError as error:
            outcome = error.code
            raise
        finally:
            self._observer.load_attempted(outcome, time.monotonic() - began)

    def _load(self, attempt: int, verify: str) -> None:
        began = time.monotonic()
        settings = self._settings
        _log.info(
            "MODEL_LOADING | MODEL=%s | ATTEMPT=%d/%d",
            shown_name(settings.model),
            attempt,
            settings.load_attempts,
        )
        self._say("looking for the model's files", attempt)

        def progress(now: HubProgress) -> None:
            if self.stopping.is_set():
                raise ShuttingDown("The service is stopping.")
            self._say(f"fetching {now.file}", attempt, now.done_bytes, now.total_bytes)

        try:
            folder = self._resolve(
                settings.model,
                revision=settings.revision,
                cache_dir=settings.cache_dir,
                progress=progress,
                endpoint=settings.hub_endpoint,
                verify=verify,
            )
            if self.stopping.is_set():
                raise ShuttingDown("The service is stopping.")
            self._say("reading the weights", attempt)
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

    def _say(self, message: str, attempt: int, done: int = 0, total: int = 0) -> None:
        progress = Progress(message, done, total, attempt, self._settings.load_attempts)
        self._status.update(progress=progress)


def shown_name(model: str) -> str:
    """The model's name for logs, page and health: of a local folder its own name alone, not where it lies."""
    return Path(model).absolute().name if Path(model).is_dir() else model


def told(error: ServiceError) -> str:
    """The error as log fields: its class, our message, its cause's class."""
    cause = type(error.__cause__).__name__ if error.__cause__ else None
    return fields(error=type(error).__name__, msg=error.message, cause=cause)
