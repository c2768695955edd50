"""Resolve a model name ('demo', a folder, or a hub id) to a folder with verified files.

A hub id is fetched by ModelScope's hub client into the client's own cache layout:

    <cache>/models/<namespace>--<name>/snapshots/<revision>/               the files
    <cache>/models/<namespace>--<name>/snapshots/<revision>.manifest.json  verified checksums
    <cache>/models/<namespace>--<name>/snapshots/<revision>.lock           one fetching process at a time

A copy that matches its manifest is used without network and without importing the client.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from service.contract.errors import (
    DamagedFile,
    DiskFull,
    DownloadInterrupted,
    ModelNotFound,
    UnsupportedModel,
)
from service.contract.times import LONGEST_PAUSE
from service.hub import client as hub_client
from service.hub import model_folder
from service.hub.client import Listed, Source
from service.hub.manifest import Manifest
from service.hub.progress import Meter, Progress, Show, terminal_bar

__all__ = ["DEMO_FOLDER", "Progress", "local_folder", "resolve", "shown_name", "terminal_bar"]

DEMO_FOLDER = Path(__file__).resolve().parents[2] / "models" / "demo"
DEFAULT_REVISION = "master"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*", re.ASCII)
_SPARE = 1 << 20  # bytes left free for manifest, lock and folders
_POLL = 0.25  # seconds between attempts to take a lock that another process holds
_STALL_LIMIT = LONGEST_PAUSE  # seconds another process may hold the lock while its files do not grow
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def resolve(
    model: str,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    progress: Show | None = None,
    endpoint: str | None = None,
    verify: str = "quick",
    on_damaged: Callable[[Sequence[str]], None] | None = None,
) -> Path:
    """Return the complete folder of ``model``, fetching files as needed.

    Args:
        revision: hub branch, tag or commit; None is master, in the version of the local copy if there is one.
        cache_dir: defaults to MODELSCOPE_CACHE, else ~/.cache/modelscope.
        progress: called from several threads, one call at a time; what it raises stops the work.
        verify: "full" hashes a local copy, "quick" compares sizes and times.
        on_damaged: called with the names of damaged files, which are then fetched again.

    Raises:
        HubUnavailable, DownloadInterrupted, DamagedFile, DiskFull: may be retried; fetched bytes are kept.
        ModelNotFound, UnsupportedModel, MissingDependency, PermanentLoadError: permanent.
    """
    if (folder := local_folder(model)) is not None:
        return model_folder.checked(folder, f"the folder {folder.name}")
    if model and _expanded(model).exists():
        raise ModelNotFound(f"{model} is a file, not a model folder")
    if not _HUB_ID.fullmatch(model):
        raise _no_such_folder(model)
    if revision is not None and not _REVISION.fullmatch(revision):
        raise ModelNotFound(f"{revision!r} is not a valid revision: give a branch, a tag or a commit")
    snapshot = _Snapshot(
        _cache(cache_dir), model, revision or DEFAULT_REVISION, progress or _ignore, on_damaged or _ignore
    )
    try:
        sound, damaged = snapshot.examine(full=verify == "full")
        if not sound:
            snapshot.fetch(endpoint, damaged)
        return snapshot.folder
    except OSError as error:
        if (mapped := hub_client.disk_error(error)) is None:
            raise
        raise mapped from error


def local_folder(model: str) -> Path | None:
    """The folder that ``model`` names, absolute; None for a hub id or a name that does not exist."""
    if model == "demo":
        return DEMO_FOLDER
    folder = _expanded(model)
    return folder.absolute() if model and folder.is_dir() else None


def shown_name(model: str) -> str:
    """The model's name for logs, page and health; of a folder the last part alone, not its location."""
    folder = local_folder(model)
    return model if folder is None else folder.name


def listed_checksum(
    path: Path, *, model: str, revision: str | None = None, cache_dir: Path | None = None
) -> str | None:
    """The verified SHA-256 of ``path`` if it is an unmodified file of the cached copy of ``model``, else
    None."""
    if local_folder(model) is not None or not _HUB_ID.fullmatch(model):
        return None
    snapshot = _Snapshot(_cache(cache_dir), model, revision or DEFAULT_REVISION)
    manifest = Manifest.load(snapshot.manifest_path)
    return None if manifest is None else manifest.checksum(snapshot.folder, path)


def converted_cache(cache_dir: Path | None = None) -> Path:
    """The folder for converted weights, beside the fetched models."""
    return _cache(cache_dir) / "converted"


def _cache(given: Path | None) -> Path:
    folder = given or Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope")
    return folder.expanduser().absolute()


def _expanded(model: str) -> Path:
    try:
        return Path(model).expanduser()
    except RuntimeError:  # ~name of an unknown user
        return Path(model)


def _no_such_folder(model: str) -> ModelNotFound:
    if model.count("/") > 1 or model.startswith((".", "~", "/")) or model.endswith("/") or "\\" in model:
        return ModelNotFound(f"folder not found: {model}")
    return ModelNotFound(f"{model} is neither demo nor a folder nor a hub id of the form namespace/name")


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True)
class _Snapshot:
    """One revision of one hub model in the cache."""

    cache: Path
    model: str
    revision: str
    show: Show = _ignore
    on_damaged: Callable[[Sequence[str]], None] = _ignore

    @property
    def folder(self) -> Path:
        snapshots = self.cache / "models" / self.model.replace("/", "--") / "snapshots"
        return snapshots / self.revision.replace("/", "--")

    @property
    def manifest_path(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.manifest.json")

    def examine(self, *, full: bool) -> tuple[bool, Sequence[str]]:
        """Return whether all files are present and match the manifest, and the names of those that do not.
        Reads only the disk."""
        manifest = Manifest.load(self.manifest_path)
        if manifest is None or (manifest.model, manifest.revision) != (self.model, self.revision):
            return False, ()
        meter = Meter(sum(record.size for record in manifest.files), {}, self.show)
        with meter.watched():
            damaged, seen = manifest.examine(self.folder, full=full, tick=meter.add)
        if damaged:
            self.on_damaged(damaged)
        if damaged or model_folder.missing(self.folder):
            return False, damaged
        if seen != manifest:
            with suppress(OSError):  # a read-only cache is hashed again at the next start
                seen.save(self.manifest_path)
        return True, ()

    def fetch(self, endpoint: str | None, damaged: Sequence[str]) -> None:
        """Fetch files that are missing, incomplete or ``damaged``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _lock(self.folder.with_name(f"{self.folder.name}.lock"), self.folder, self.show) as waited:
            if waited and self.examine(full=False)[0]:
                return
            source = Source(self.model, self.revision, hub_client.hub_address(endpoint))
            listed = hub_client.list_files(source)
            names = self._complete(source, listed, damaged)
            self._seal(source, {name: listed[name] for name in names})

    def _complete(self, source: Source, listed: Mapping[str, Listed], damaged: Sequence[str]) -> list[str]:
        """Download everything that the model needs and return the names."""
        names, lacking = model_folder.select(listed.__contains__)
        _refuse_incomplete(source, lacking)
        self._discard(listed, damaged)
        self._make_room(names, listed)
        # First the two that name further files: the answer file and the card's pictures.
        small = [name for name in (model_folder.CONFIGURATION, model_folder.CARD) if name in listed]
        self._download(source, small, names, listed)
        names, lacking = model_folder.select(listed.__contains__, self.folder)
        _refuse_incomplete(source, lacking)
        self._make_room(names, listed)
        self._download(source, names, names, listed)
        return names

    def _download(
        self, source: Source, now: Sequence[str], all_names: Sequence[str], listed: Mapping[str, Listed]
    ) -> None:
        done = {name: self._present(name, listed[name].size) for name in all_names}
        meter = Meter(sum(listed[name].size for name in all_names), done, self.show)
        hub_client.download(source, now, self.folder, self.cache, meter)

    def _discard(self, listed: Mapping[str, Listed], damaged: Sequence[str]) -> None:
        """Remove files that the client would wrongly keep: damaged ones for which the hub lists no checksum,
        and weights that the hub no longer has but the loader would prefer."""
        for name in damaged:
            if name in listed and listed[name].sha256 is None:
                (self.folder / name).unlink(missing_ok=True)
        for name in model_folder.WEIGHTS:
            if name not in listed:
                (self.folder / name).unlink(missing_ok=True)

    def _make_room(self, names: Sequence[str], listed: Mapping[str, Listed]) -> None:
        needed = sum(listed[name].size - self._present(name, listed[name].size) for name in names)
        free = shutil.disk_usage(self.folder).free
        if needed and needed + _SPARE > free:
            raise DiskFull(
                f"the disk is full: the model needs {(needed + _SPARE) / 1e6:.1f} MB more, "
                f"{free / 1e6:.1f} MB are free in the cache",
                needed_bytes=needed + _SPARE,
                free_bytes=free,
            )

    def _present(self, name: str, size: int) -> int:
        """Bytes of a file that need no fetching: all of them, or those of an interrupted download."""
        for path, partial in ((self.folder / name, False), (self.folder / f"{name}.incomplete", True)):
            with suppress(OSError):
                there = path.stat().st_size
                if there == size or (partial and there < size):
                    return there
        return 0

    def _seal(self, source: Source, files: Mapping[str, Listed]) -> None:
        """Verify all files on disk against the hub's list, then write the manifest."""
        manifest = Manifest.of(
            self.folder,
            files,
            model=self.model,
            revision=self.revision,
            endpoint=source.host,
            tick=_ignore,
        )
        wrong = [
            record.path
            for record in manifest.files
            if record.size != files[record.path].size
            or files[record.path].sha256 not in (None, record.sha256)
        ]
        for name in wrong:
            (self.folder / name).unlink(missing_ok=True)
        if wrong:
            raise DamagedFile(
                f"{', '.join(wrong)} of {source} do not match the hub's list after the download"
            )
        manifest.save(self.manifest_path)


def _refuse_incomplete(source: Source, lacking: Sequence[str]) -> None:
    if lacking:
        raise UnsupportedModel(f"{source} cannot be loaded: {', '.join(lacking)} missing on the hub")


@contextmanager
def _lock(path: Path, folder: Path, show: Show) -> Iterator[bool]:
    """Hold the lock at ``path``; yield whether another process held it first.

    Waits while ``folder`` grows. The kernel releases the lock of a dead process.
    """
    with path.open("ab") as stream:
        yield _acquire(stream.fileno(), folder, show)


def _acquire(descriptor: int, folder: Path, show: Show) -> bool:
    grown, size = time.monotonic(), -1
    waited = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return waited
        except BlockingIOError:
            waited = True
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return waited  # a file system without locks: rely on the client's per-file locks
            raise
        if (current := _bytes_in(folder)) != size:
            grown, size = time.monotonic(), current
        elif time.monotonic() - grown > _STALL_LIMIT:
            raise DownloadInterrupted("another process is fetching this model without progress")
        show(Progress("in another process", size, 0))
        time.sleep(_POLL)


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # a file may be removed meanwhile
            total += path.stat().st_size
    return total
