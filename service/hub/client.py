"""ModelScope's hub client behind two calls, with its telemetry off and its errors mapped to ours.

The only module that imports the client, and only to fetch something: the import loads torch as well.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from service.contract.errors import (
    DamagedFile,
    DiskFull,
    DownloadInterrupted,
    HubUnavailable,
    MissingDependency,
    ModelError,
    ModelNotFound,
    PermanentLoadError,
)
from service.hub.progress import Meter

# Read by the client at import, in seconds; a value that is already set wins.
_ENVIRONMENT = {
    "MODELSCOPE_API_TIMEOUT": "30",
    "MODELSCOPE_DOWNLOAD_TIMEOUT": "30",
    "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": "15",
    "MODELSCOPE_REPO_TREE_LIST_TIMEOUT_SECONDS": "120",
    # Otherwise the client also calls a cloud provider's metadata service.
    "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false",
}
_ANONYMOUS = "0" * 32
_WORKERS = 2
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_SIGN_IN = "Set MODELSCOPE_API_TOKEN to a token with read access, or choose another model with --model."

_import_lock = threading.Lock()  # guards the import and one-time configuration of the client


@dataclass(frozen=True)
class Listed:
    """An entry of the hub's file list; ``sha256`` is None if the hub gives none."""

    size: int
    sha256: str | None


@dataclass(frozen=True)
class Source:
    """A revision of a model on a hub."""

    model: str
    revision: str
    endpoint: str

    def __str__(self) -> str:
        return f"{self.model} (revision {self.revision})"

    @property
    def host(self) -> str:
        """The hub's host name, for messages: the URL may contain a password."""
        return urlsplit(self.endpoint).hostname or "the configured address"


class _Client(NamedTuple):
    hub: Any  # the package modelscope_hub
    snapshot_download: Any


def list_files(source: Source) -> dict[str, Listed]:
    """List the files of the repository by path, within about a minute."""
    client = _client()
    with _mapped(source):
        api = client.hub.HubApi(endpoint=source.endpoint)
        entries = api.list_repo_files(source.model, "model", revision=source.revision)
        listed = {
            str(entry.path): Listed(int(entry.size), entry.sha256 or None)
            for entry in entries
            if entry.path and not entry.is_dir
        }
    if not listed:
        raise HubUnavailable(f"the hub's file list for {source} is empty")
    return listed


def download(source: Source, names: Sequence[str], folder: Path, cache: Path, meter: Meter) -> None:
    """Fetch ``names`` into ``folder``, except files that already match the hub's list.

    A partial file is resumed; a file whose checksum is wrong is fetched up to three times. An exception
    raised by the meter's callback stops the download and propagates.
    """
    client = _client()

    class Callback:
        def __init__(self, filename: str, file_size: int) -> None:
            self.filename = filename
            meter.put(filename, 0)

        def update(self, size: int) -> None:
            meter.add(self.filename, size)

        def end(self) -> None:
            pass

    with meter.watched(), _mapped(source):
        client.snapshot_download(
            source.model,
            revision=source.revision,
            cache_dir=cache,
            local_dir=str(folder),
            allow_patterns=[_literal(name) for name in names],
            max_workers=_WORKERS,
            progress_callbacks=[Callback],
            endpoint=source.endpoint,
        )


def hub_address(endpoint: str | None) -> str:
    """Return ``endpoint``, else the client's setting (MODELSCOPE_ENDPOINT), else its default.

    Without an explicit endpoint the client queries two hubs and uses the one that has the model.
    """
    config = _client().hub.HubConfig
    return str(config.normalize_endpoint(endpoint) if endpoint else config().endpoint)


def _literal(name: str) -> str:
    """Escape ``name`` for a glob pattern."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


@functools.cache
def _configured() -> _Client:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import modelscope_hub
        from modelscope.hub.snapshot_download import snapshot_download
        from modelscope_hub import _download as transfers
    except ImportError as error:
        raise MissingDependency(
            "fetching a model needs the modelscope package, which is not installed"
        ) from error

    class AnonymousConfig(modelscope_hub.HubConfig):  # type: ignore[misc]
        """Sends no install identifier; by default the client adds one to its User-Agent."""

        def get_session_id(self) -> str:
            return _ANONYMOUS

    known = modelscope_hub.get_default_config()
    modelscope_hub.set_default_config(AnonymousConfig(cache_dir=known.cache_dir, config_dir=known.config_dir))
    # The client's progress bars cannot be disabled and would fill a log file.
    transfers.tqdm = functools.partial(transfers.tqdm, disable=True)
    log = logging.getLogger("modelscope_hub")
    for handler in list(log.handlers):
        log.removeHandler(handler)
    log.propagate = True
    log.setLevel(logging.WARNING)
    return _Client(modelscope_hub, snapshot_download)


def _client() -> _Client:
    with _import_lock:
        return _configured()


@contextmanager
def _mapped(source: Source) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        mapped = _translate(error, source)
        if mapped is None:
            raise
        raise mapped from error


def _translate(error: BaseException, source: Source) -> ModelError | None:
    """Map an error of the client; None if neither hub nor disk caused it."""
    from modelscope_hub import errors as hub
    from requests.exceptions import HTTPError, RequestException

    if isinstance(error, HTTPError) and isinstance(error.__cause__, hub.HubError):
        error = error.__cause__  # the compatibility layer wraps it
    if isinstance(error, hub.FileDownloadError) and error.failed_files:
        return _translate_files(error.failed_files, source)
    if isinstance(error, hub.NotExistError):
        return ModelNotFound(f"the hub has no public model {source}")
    if isinstance(error, hub.AuthenticationError | hub.PermissionDeniedError):
        return ModelNotFound(
            f"access to {source} denied by the hub: the model is private or gated", remedy=_SIGN_IN
        )
    if isinstance(error, hub.RequestTimeoutError):
        return HubUnavailable(f"the hub at {source.host} did not answer in time")
    if isinstance(error, hub.NetworkError):
        return HubUnavailable(f"the hub at {source.host} cannot be reached")
    if isinstance(error, hub.ServerError | hub.RateLimitError):
        return HubUnavailable(f"the hub at {source.host} failed (HTTP {error.status_code})")
    if isinstance(error, hub.APIError):
        return ModelNotFound(f"the hub refused the request for {source} (HTTP {error.status_code})")
    if isinstance(error, OSError) and not isinstance(error, RequestException):
        return disk_error(error)
    if isinstance(error, RequestException | ValueError | TypeError | LookupError | AttributeError):
        # Not the hub's protocol: for example a proxy's login page.
        return HubUnavailable(f"the reply from {source.host} is not a model hub's ({type(error).__name__})")
    return None


def _translate_files(failed: Mapping[str, BaseException], source: Source) -> ModelError:
    """Map the errors of several files to one; those that need an operator come first."""
    from modelscope_hub import errors as hub

    for name, error in failed.items():
        if isinstance(error, OSError) and (mapped := disk_error(error)) is not None:
            return mapped
        if isinstance(error, hub.AuthenticationError | hub.PermissionDeniedError):
            return ModelNotFound(f"access to {name} of {source} denied by the hub", remedy=_SIGN_IN)
    for name, error in failed.items():
        if isinstance(error, hub.FileIntegrityError):
            return DamagedFile(f"the hub sent {name} of {source} with a wrong size or checksum")
    name, error = next(iter(failed.items()))
    return DownloadInterrupted(f"the download of {name} of {source} was interrupted ({type(error).__name__})")


def disk_error(error: OSError) -> ModelError | None:
    """Map a full disk and missing permissions; None for other OSErrors, such as network errors."""
    if error.errno in _NO_ROOM:
        return DiskFull("the disk is full: the model's files do not fit into the cache")
    if error.errno in _NO_PLACE:
        return PermanentLoadError(
            "the model cache cannot be written: permission denied, read-only or not a folder",
            remedy="Choose a writable folder with --cache-dir.",
        )
    return None
