"""Getting a model: 'demo', a folder, or a hub id becomes a folder with verified files.

A hub id is fetched through ModelScope's hub client into the cache layout that the client itself uses:

    <cache>/models/<namespace>--<name>/snapshots/<revision>/               what the hub holds
    <cache>/models/<namespace>--<name>/snapshots/<revision>.manifest.json  proof of what was verified
    <cache>/models/<namespace>--<name>/snapshots/<revision>.lock           one process fetches at a time

A copy that agrees with its manifest is used with no network at all, and without importing the client.
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

__all__ = ["DEMO_FOLDER", "Progress", "resolve", "terminal_bar"]

DEMO_FOLDER = Path(__file__).resolve().parents[2] / "models" / "demo"
DEFAULT_REVISION = "master"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*", re.ASCII)
_SPARE = 1 << 20  # bytes to leave free beyond the files themselves: manifest, lock, folders
_POLL = 0.25  # seconds between two looks at another process's lock
_PATIENCE = LONGEST_PAUSE  # seconds another process may hold the lock without its files growing
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
    """The folder of ``model``, with everything in it that a model needs.

    ``revision`` is a hub branch, tag or commit (None: master, as the local copy has it if there is one).
    ``cache_dir`` defaults to MODELSCOPE_CACHE, else ~/.cache/modelscope. ``progress`` is called from several
    threads, one call at a time; what it raises stops the work and comes out of here. ``verify`` "full"
    rehashes a local copy where "quick" believes size and time. ``on_damaged`` is called with the names of
    files that are not what was fetched; they are then fetched again.

    Raises HubUnavailable, DownloadInterrupted, DamagedFile, DiskFull (worth another attempt: what has been
    fetched is kept) and ModelNotFound, UnsupportedModel, MissingDependency, PermanentLoadError.
    """
    if model == "demo":
        return model_folder.checked(DEMO_FOLDER, "the bundled demo model")
    folder = _expanded(model)
    if model and folder.is_dir():
        return model_folder.checked(folder.absolute(), f"the folder {folder.absolute().name}")
    if model and folder.exists():
        raise ModelNotFound(f"{model} is a file; a model is a folder")
    if not _HUB_ID.fullmatch(model):
        raise _no_such_folder(model)
    if revision is not None and not _REVISION.fullmatch(revision):
        raise ModelNotFound(f"{revision!r} is no revision: a branch, a tag or a commit is meant")
    snapshot = _Snapshot(
        _cache(cache_dir), model, revision or DEFAULT_REVISION, progress or _ignore, on_damaged or _ignore
    )
    try:
        sound, damaged = snapshot.examine(full=verify == "full")
        if not sound:
            snapshot.fetch(endpoint, damaged)
        return snapshot.folder
    except OSError as error:
        # TransientLoadError for a full disk, a permanent one for a cache that may not be written.
        mapped = hub_client.disk_error(error)
        if mapped is None:
            raise
        raise mapped from error


def listed_checksum(
    path: Path, *, model: str, revision: str | None = None, cache_dir: Path | None = None
) -> str | None:
    """The SHA-256 that ``path`` had when it was last checked, if it is an untouched file of the local copy of
    ``model``; None of any other file."""
    if model == "demo" or not _HUB_ID.fullmatch(model) or _expanded(model).is_dir():
        return None
    snapshot = _Snapshot(_cache(cache_dir), model, revision or DEFAULT_REVISION)
    manifest = Manifest.load(snapshot.manifest_path)
    return None if manifest is None else manifest.checksum(snapshot.folder, path)


def converted_cache(cache_dir: Path | None = None) -> Path:
    """The folder for converted weights, beside the models that were fetched."""
    return _cache(cache_dir) / "converted"


def _cache(given: Path | None) -> Path:
    folder = given or Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope")
    return folder.expanduser().absolute()


def _expanded(model: str) -> Path:
    try:
        return Path(model).expanduser()
    except RuntimeError:  # ~somebody who is not a user here
        return Path(model)


def _no_such_folder(model: str) -> ModelNotFound:
    if model.count("/") > 1 or model.startswith((".", "~", "/")) or model.endswith("/") or "\\" in model:
        return ModelNotFound(f"folder not found: {model}")
    return ModelNotFound(f"{model} is neither demo nor a folder nor a hub id, which reads namespace/name")


def _ignore(_: object) -> None:
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
        """Whether all files are there and as the manifest says, and the names of those that are not as it
        says. Reads the disk and nothing else."""
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
            with suppress(OSError):  # a read-only cache is hashed again next time, no more
                seen.save(self.manifest_path)
        return True, ()

    def fetch(self, endpoint: str | None, damaged: Sequence[str]) -> None:
        """Get from the hub what is not there or not whole, and what is ``damaged``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _lock(self.folder.with_name(f"{self.folder.name}.lock"), self.folder, self.show) as waited:
            if waited and self.examine(full=False)[0]:
                return
            source = Source(self.model, self.revision, hub_client.hub_address(endpoint))
            listed = hub_client.list_files(source)
            names = self._complete(source, listed, damaged)
            self._seal(source, {name: listed[name] for name in names})

    def _complete(self, source: Source, listed: Mapping[str, Listed], damaged: Sequence[str]) -> list[str]:
        """Download until everything needed is there; returns the needed names."""
        names, lacking = model_folder.wanted(listed.__contains__)
        _refuse_incomplete(source, lacking)
        self._discard(listed, damaged)
        self._make_room(names, listed)
        # configuration.json names the answer file, the card its pictures: these two come first.
        small = [name for name in (model_folder.CONFIGURATION, model_folder.CARD) if name in listed]
        self._download(source, small, names, listed)
        names, lacking = model_folder.wanted(listed.__contains__, self.folder)
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
        """Remove what the client would keep though it is wrong.

        It checks size and checksum where the hub lists them. Left to us: a damaged file whose checksum the
        hub does not list, and weights which the hub no longer holds but the loader would prefer.
        """
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
                f"the disk is full: the model needs {_megabytes(needed + _SPARE)} more, "
                f"{_megabytes(free)} are free in the cache",
                needed_bytes=needed + _SPARE,
                free_bytes=free,
            )

    def _present(self, name: str, size: int) -> int:
        """Bytes of a file that need not be fetched: all, or what an interrupted download left."""
        for path, partial in ((self.folder / name, False), (self.folder / f"{name}.incomplete", True)):
            with suppress(OSError):
                there = path.stat().st_size
                if there == size or (partial and there < size):
                    return there
        return 0

    def _seal(self, source: Source, files: Mapping[str, Listed]) -> None:
        """Prove every file on the disk against the hub's list, then write the manifest."""
        manifest = Manifest.of(
            self.folder,
            files,
            model=self.model,
            revision=self.revision,
            endpoint=source.host,
            tick=_untold,
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
            raise DamagedFile(f"{', '.join(wrong)} of {source} differ from the hub's list after the download")
        manifest.save(self.manifest_path)


def _refuse_incomplete(source: Source, lacking: Sequence[str]) -> None:
    if lacking:
        raise UnsupportedModel(f"{source} is no model we can load: the hub has no {', no '.join(lacking)}")


def _untold(file: str, size: int) -> None:
    pass


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


@contextmanager
def _lock(path: Path, folder: Path, show: Show) -> Iterator[bool]:
    """Hold the lock at ``path``; yields whether another process had it first.

    Waits as long as the holder's ``folder`` grows. A lock dies with its process, so none is ever stale.
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
                return waited  # a file system without locks: the client's own per-file locks must do
            raise
        if (now_there := _bytes_in(folder)) != size:
            grown, size = time.monotonic(), now_there
        elif time.monotonic() - grown > _PATIENCE:
            raise DownloadInterrupted("another process is fetching this model and makes no progress")
        show(Progress("in another process", size, 0))
        time.sleep(_POLL)


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # files come and go while we look
            total += path.stat().st_size
    return total
