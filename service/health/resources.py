"""Memory, disk, GPU and process figures, sampled by a separate thread. Sizes are bytes.

Memory is measured against the tightest cgroup limit (v1 or v2) of this process if that is below the machine's
memory. Inactive file cache, which the kernel can drop at once, does not count as used, as in ``free`` and
Kubernetes.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from service.cgroups import CGROUPS, OWN_CGROUPS, groups


@dataclass(frozen=True, slots=True)
class Use:
    """Used and total amount of a resource."""

    used: int
    total: int

    @property
    def share(self) -> float:
        return self.used / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Resources:
    """One sample. ``gpu`` is the whole device, other processes included; None without CUDA. ``memory_by`` is
    the source of the memory limit, ``cgroup`` or ``host``. ``process_memory`` is the resident memory of this
    process and its readers, ``reading_memory`` the part of readers that are decoding."""

    at: float
    memory: Use
    memory_by: str
    disk: Use
    gpu: Use | None = None
    gpu_name: str = ""
    process_memory: int = 0
    reading_memory: int = 0
    threads: int = 0
    cpu_seconds: float = 0.0


_log = logging.getLogger(__name__)
GpuReader = Callable[[], tuple[str, int, int] | None]


class Sampler:
    """Keeps the latest sample. ``gpu`` returns (name, used, total) of the device in use, None without one;
    ``readers`` the process ids of idle and of other readers. The sampling thread calls each of
    ``on_sample`` with every sample."""

    def __init__(
        self,
        folders: Sequence[Path],
        gpu: GpuReader,
        *,
        period: float = 2.0,
        cgroups: Path = CGROUPS,
        readers: Callable[[], tuple[Iterable[int], Iterable[int]]] = lambda: ((), ()),
        on_sample: Sequence[Callable[[Resources], None]] = (),
    ) -> None:
        self._folders = tuple(folders)
        self._gpu = gpu
        self._period = period
        self._cgroups = cgroups
        self._readers = readers
        self._on_sample = on_sample
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resources", daemon=True)
        # Replaced atomically by one thread: needs no lock.
        self._latest = self.sample(gpu=False)

    @property
    def name(self) -> str:
        return self._thread.name

    @property
    def dead(self) -> bool:
        """Whether its thread has exited without ``stop``."""
        return self._thread.ident is not None and not self._thread.is_alive() and not self._stop.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait: float = 2.0) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(wait)

    def latest(self) -> Resources:
        return self._latest

    def sample(self, *, gpu: bool = True) -> Resources:
        """Take a sample: about 1 ms, longer with ``gpu`` if the driver is slow."""
        memory, by = memory_use(self._cgroups)
        card = self._gpu() if gpu else None
        idle, reading = (sum(map(resident, pids)) for pids in self._readers())
        with self._process.oneshot():
            return Resources(
                at=time.monotonic(),
                memory=memory,
                memory_by=by,
                disk=max((disk_use(folder) for folder in self._folders), key=lambda use: use.share),
                gpu=Use(card[1], card[2]) if card else None,
                gpu_name=card[0] if card else "",
                process_memory=self._process.memory_info().rss + idle + reading,
                reading_memory=reading,
                threads=self._process.num_threads(),
                cpu_seconds=sum(self._process.cpu_times()[:2]),
            )

    def _run(self) -> None:
        failing: set[str] = set()
        while not self._stop.is_set():
            self._try("sample", self._take, failing)  # on failure the last sample stays
            for receive in self._on_sample:
                self._try(
                    getattr(receive, "__qualname__", "receiver"),
                    functools.partial(receive, self._latest),
                    failing,
                )
            self._stop.wait(self._period)

    def _take(self) -> None:
        self._latest = self.sample()

    def _try(self, what: str, step: Callable[[], None], failing: set[str]) -> None:
        """Run one step; its failure does not prevent the others. Log the first of failures in a row."""
        try:
            step()
            failing.discard(what)
        except Exception as error:
            if what not in failing:
                _log.error("RESOURCES | STEP=%s | ERROR=%s", what, type(error).__name__, exc_info=True)
            failing.add(what)


def resident(pid: int) -> int:
    """The resident memory of a process, 0 if it has exited.

    Shared pages count in each process: about 10 MB of libraries per reader. PSS would avoid that but walks
    all pages, which takes tens of milliseconds with a large mapped model.
    """
    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def memory_use(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> tuple[Use, str]:
    """Memory against the tightest limit of this process, and the source of that limit."""
    host = psutil.virtual_memory()
    limited = [use for use in _cgroup_uses(cgroups, own) if use.total < host.total]
    if limited:
        return max(limited, key=lambda use: use.share), "cgroup"
    return Use(host.total - host.available, host.total), "host"


def memory_left(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Bytes that this process may still take under every limit of its memory."""
    limited = [use.total - use.used for use in _cgroup_uses(cgroups, own)]
    return max(0, min([psutil.virtual_memory().available, *limited]))


def _cgroup_uses(cgroups: Path, own: Path) -> Iterator[Use]:
    """Use and limit of our cgroups and all visible ancestors."""
    for folder, unified in groups("memory", cgroups, own):
        names = (
            ("memory.current", "memory.max", "inactive_file")
            if unified
            else ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file")
        )
        if (use := _cgroup_use(folder, *names)) is not None:
            yield use


def _cgroup_use(folder: Path, current: str, limit: str, reclaimable: str) -> Use | None:
    try:
        total = int((folder / limit).read_text("utf-8", "replace"))  # ValueError for "max": no limit
        used = int((folder / current).read_text("utf-8", "replace"))
    except (OSError, ValueError):
        return None
    return Use(max(0, used - _stat(folder / "memory.stat", reclaimable)), total)


def _stat(path: Path, key: str) -> int:
    try:
        for line in path.read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0


def disk_use(folder: Path) -> Use:
    """Use of the file system of ``folder``, which may not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    disk = psutil.disk_usage(str(folder))
    return Use(disk.used, disk.used + disk.free)  # without the blocks reserved for root


def process_start_ticks() -> int:
    """Start time of this process in clock ticks since boot; with the PID it identifies a process."""
    after_name = Path("/proc/self/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return int(after_name[19])
