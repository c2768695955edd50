"""The native OFA network as a model of the engine. With torch_errors the only module of the service that uses
torch, which is imported when the model is loaded, after page and health API have started.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import gc
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from service.cgroups import core_limit
from service.contract.errors import (
    DamagedFile,
    MissingDependency,
    NotReady,
    UnsupportedModel,
)
from service.contract.protocols import CancelPoint, Listed, LoadLater
from service.contract.request import Pair
from service.inference.int8_weights import Int8Weights
from service.inference.late_loading import Shared
from service.inference.torch_errors import inference_errors, is_out_of_memory, load_errors

if TYPE_CHECKING:
    import torch

    from ofa.model import EntailmentModel
    from ofa.precision import GuardCounts, GuardedModel

    Judge = EntailmentModel | GuardedModel

_log = logging.getLogger(__name__)


class NativePredictor:
    """Copies of an ``ofa.model.EntailmentModel``, one per device.

    Args:
        device: ``auto``, or a device's name.
        dtype: ``auto``, fp32, bf16 or fp16.
        threads: CPU threads; 0 for torch's default, or fewer where a cgroup allows less processor time.
        guard: recompute close calls of a reduced precision in fp32.
        cache: the folder of converted weights; None for none.
        memory_left: bytes that the process may still take; for the check of int8.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        dtype: str = "auto",
        threads: int = 0,
        guard: bool = True,
        cache: Path | None = None,
        memory_left: Callable[[], int] = lambda: sys.maxsize,
    ) -> None:
        self._wanted_device = device
        self._wanted_dtype = dtype
        self._threads = threads
        self._guard = guard
        self._cache = cache
        self._memory_left = memory_left
        self._counts: GuardCounts | None = None
        self._load_later: LoadLater | None = None
        self._lock = threading.Lock()  # guards everything below; never held while computing or loading
        self._folder = Path()
        self._copies: dict[str, tuple[Judge, str]] = {}
        self._home = ""
        self._device = ""
        self._next: tuple[Judge, str] | None = None  # replaces the copy in use before the next computation
        self._life = 0  # counts loads and closes: a copy read in one is useless in the next

    @property
    def device(self) -> str:
        return self._device

    @property
    def dtype(self) -> str:
        copy = self._copies.get(self._device)
        return copy[1] if copy is not None else ""

    @property
    def takes_premise(self) -> bool | None:
        copy = self._copies.get(self._device)
        slots = copy[0].task.prompt_slots if copy is not None else None
        return None if slots is None else slots == 2

    @property
    def language(self) -> str | None:
        copy = self._copies.get(self._device)
        return copy[0].task.language if copy is not None else None

    def side(self) -> int:
        """The network's own input size, so that a picture is resized once and a waiting request holds less
        than a megabyte."""
        return self._current().task.patch_image_size

    @property
    def devices(self) -> Sequence[str]:
        return tuple(dict.fromkeys((self._home, "cpu"))) if self._device else ()

    def load(self, folder: Path) -> None:
        """Load on the primary device, or on the CPU when the GPU has no room.

        Raises DamagedFile, DiskFull and other TransientLoadErrors, UnsupportedModel, MissingDependency.
        """
        self.close()
        with load_errors():
            import torch

            if threads := self._threads or core_limit():
                torch.set_num_threads(threads)
            home = device = _choose_device(self._wanted_device)
            with self._lock:
                self._folder, self._home, life = folder, home, self._life
            try:
                copy = self._read(device)
            except RuntimeError as error:
                if home == "cpu" or not is_out_of_memory(error):
                    raise
                device = "cpu"
            if device != home:  # only here is the failed attempt's memory free
                torch.cuda.empty_cache()
                copy = self._read(device)
            self._keep(device, copy, life)
            with self._lock:
                self._device = device
            gpu = torch.cuda.get_device_name(home) if home != "cpu" else None
        _log.info(
            "DEVICE | NAME=%s | DTYPE=%s | THREADS=%d%s",
            device,
            self.dtype,
            torch.get_num_threads(),
            f" | GPU={gpu}" if gpu else "",
        )

    def defer(self, load_later: LoadLater) -> None:
        self._load_later = load_later

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[dict[str, float] | None]:
        """Raises OutOfMemory, DeviceLost, InputError for a premise the prompt cannot take, InferenceError."""
        from ofa.precision import GuardedModel

        with self._lock:
            if self._next is not None:
                self._copies[self._device], self._next = self._next, None
        model = self._current()
        if self._load_later is None or not isinstance(model, GuardedModel):
            return _judge(model, pairs, cancel_point)
        with inference_errors():
            answers, missing = model.judge_loaded(pairs, cancel_point)
            if missing is not None:
                load = functools.partial(self._load_step, model, missing)
                self._load_later(model, model.steps[missing].name, load)
        return answers

    def _load_step(self, model: GuardedModel, index: int) -> None:
        """Raises OutOfMemory, DeviceLost, InferenceError."""
        with inference_errors():
            try:
                model.load(index)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                return
            self.empty_cache()
            model.load(index)

    def move(self, device: str) -> None:
        """Raises OutOfMemory, DeviceLost and what ``load`` raises."""
        self._ready(device)
        with self._lock:
            if device not in self._copies:
                raise NotReady("The model is being loaded.")
            self._device = device

    def judge_on(self, device: str, pairs: Sequence[Pair]) -> list[dict[str, float]]:
        """Raises as ``judge`` and ``move`` do."""
        return _judge(self._ready(device), pairs, lambda: None)

    def release(self, device: str) -> None:
        with self._lock:
            if device != self._device:
                self._copies.pop(device, None)
        self.empty_cache()

    def empty_cache(self) -> None:
        """Also releases recorded computations, and memory reserved by Python and the C library."""
        for model, _ in list(self._copies.values()):
            model.release_graphs()
        gc.collect()
        with suppress(OSError, AttributeError):  # glibc only
            ctypes.CDLL(None).malloc_trim(0)
        if self._home.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def reserved(self) -> tuple[int, int]:
        if not self._home.startswith("cuda"):
            return 0, 0
        import torch

        return torch.cuda.memory_reserved(self._home), torch.cuda.memory_allocated(self._home)

    def gpu(self) -> tuple[str, int, int] | None:
        if not self._home.startswith("cuda"):
            return None
        import torch

        free, total = torch.cuda.mem_get_info(self._home)
        return torch.cuda.get_device_name(self._home), total - free, total

    def guard_counts(self) -> tuple[int, dict[str, int]] | None:
        """Return the pairs judged by the precision guard, and by number format those recomputed in it; None
        without a guard."""
        counts = self._counts
        return None if counts is None else (counts.judged, dict(counts.recomputed))

    def keep_converted(self, cancel_point: CancelPoint, listed: Listed) -> None:
        import torch

        from ofa.converted import Checksums, Conversion
        from ofa.precision import GuardedModel

        class AsListed(Checksums):
            """Refuses weights whose checksum is not the listed one."""

            def of(self, path: Path, cancel_point: CancelPoint | None) -> str:
                expected, found = listed(path), super().of(path, cancel_point)
                if expected not in (None, found):
                    raise DamagedFile(f"{path.name} is not what was fetched: its checksum is wrong.")
                return found

        model, checksums = self._current(), AsListed()
        model.keep(cancel_point, checksums)
        if self._cache is None:
            return
        with load_errors():
            exact = Conversion(self._folder, self._cache, torch.float32)
            if isinstance(model, GuardedModel) and exact.worthwhile and not exact.current:
                last = model.steps[-1].load()
                last.keep(cancel_point, checksums)
                del last  # if no close call has needed it yet, it need not stay in memory
                self.empty_cache()
            self._check_int8(cancel_point)

    def _check_int8(self, cancel_point: CancelPoint) -> None:
        """Check int8 on these weights once, and use it from the next computation on if it passed."""
        from ofa.precision import GuardedModel

        with self._lock:
            device = self._device
            copy = self._copies.get(device)
        if copy is None or device != "cpu" or device != self._home:
            return
        model, name = copy
        first = model.first if isinstance(model, GuardedModel) else model
        parameters = sum(one.numel() for one in first.network.parameters())
        check = self._int8().check(cancel_point, parameters, self._memory_left)
        if check is None or not check.passed:
            return
        following = self._in_steps(device, name, first)
        with self._lock:
            if self._copies.get(device) is copy:  # not reloaded meanwhile
                self._next = following

    def verify_converted(self, folder: Path, cancel_point: CancelPoint, listed: Listed) -> bool:
        if self._cache is None:
            return True
        from ofa.converted import Checksums, Conversion, ConvertedFile
        from ofa.int8_file import Int8File
        from ofa.precision import DTYPES

        checksums, sound = Checksums(listed), True
        with load_errors():
            kept: list[ConvertedFile] = [Conversion(folder, self._cache, dtype) for dtype in DTYPES.values()]
            for file in (*kept, Int8File(folder, self._cache)):
                if file.path.exists():
                    sound &= file.verify(cancel_point, checksums)
        return sound

    def keep(self, cancel_point: CancelPoint) -> None:
        """Write the converted weights if that is worth it. A failure only makes the next start slower."""
        try:
            self._current().keep(cancel_point)
        except OSError as error:
            _log.warning(
                "CONVERTED_WEIGHTS_NOT_KEPT | ERROR=%s", errno.errorcode.get(error.errno or 0, "OSError")
            )

    def close(self) -> None:
        """Drop the model and its cached memory."""
        with self._lock:
            self._copies.clear()
            self._next = None
            self._device = ""
            self._life += 1
        self.empty_cache()

    def _current(self) -> Judge:
        copy = self._copies.get(self._device)
        if copy is None:
            raise NotReady("The model is not loaded.")
        return copy[0]

    def _ready(self, device: str) -> Judge:
        """Return the copy on ``device``, loading it first if needed."""
        with self._lock:
            life, copy = self._life, self._copies.get(device)
            if not self._copies:
                raise NotReady("The model is not loaded.")
        if copy is None:
            with inference_errors():
                copy = self._read(device)
            self._keep(device, copy, life)
        return copy[0]

    def _read(self, device: str) -> tuple[Judge, str]:
        from ofa.model import EntailmentModel

        fallback = device == "cpu" and self._home.startswith("cuda")
        name, dtype = _choose_dtype(self._wanted_dtype, device, fallback)
        return self._in_steps(device, name, EntailmentModel.load(self._folder, device, dtype, self._cache))

    def _in_steps(self, device: str, name: str, model: EntailmentModel) -> tuple[Judge, str]:
        """The model in the format ``name`` with int8 before and fp32 after it, as far as they are used."""
        import torch

        from ofa.model import EntailmentModel
        from ofa.precision import MARGINS, GuardCounts, GuardedModel, Step

        folder, cache = self._folder, self._cache
        in_int8 = self._int8().applied(model) if device == self._home == "cpu" else None
        formats = [(name, model)] if in_int8 is None else [("int8", in_int8), (name, model)]
        name, first = formats[0]
        if not self._guard or name == "fp32":
            return first, name
        if self._counts is None:
            self._counts = GuardCounts()
        exact = Shared(lambda: EntailmentModel.load(folder, device, torch.float32, cache))
        steps = [Step(one, MARGINS[one], _at_hand(copy)) for one, copy in formats]
        if steps[-1].name != "fp32":
            steps.append(Step("fp32", MARGINS["fp32"], exact))
        guarded = GuardedModel(steps, self._counts)
        for index in range(1, len(formats)):
            guarded.load(index)
        return guarded, name

    def _int8(self) -> Int8Weights:
        import torch

        threads = torch.get_num_threads()
        return Int8Weights(self._folder, self._cache, self._wanted_dtype, self._guard, threads)

    def _keep(self, device: str, copy: tuple[Judge, str], life: int) -> None:
        with self._lock:
            if life == self._life:
                self._copies[device] = copy


def _at_hand(model: EntailmentModel) -> Callable[[], EntailmentModel]:
    return lambda: model


def _judge(model: Judge, pairs: Sequence[Pair], cancel_point: CancelPoint) -> list[dict[str, float]]:
    with inference_errors():
        return model.judge(pairs, cancel_point)


def _choose_device(wanted: str) -> str:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda:0" if count else "cpu"
    if wanted == "cpu":
        return "cpu"
    index = int(wanted.partition(":")[2] or 0)
    if index >= count:
        raise MissingDependency(
            f"--device {wanted} is not available: torch {torch.__version__} finds {count} CUDA devices.",
            remedy="Use --device auto or cpu, or install the driver and a CUDA build of torch.",
        )
    return f"cuda:{index}"


def _choose_dtype(wanted: str, device: str, fallback: bool) -> tuple[str, torch.dtype]:
    """Return the precision's name and torch's dtype; those of what is not int8. As a ``fallback`` for fp16
    the CPU uses its best dtype."""
    from ofa.precision import DTYPES, best_dtype, name_of

    if wanted in ("auto", "int8") or (fallback and wanted == "fp16"):
        dtype = best_dtype(device)
        return name_of(dtype), dtype
    if wanted == "fp16" and device == "cpu":
        raise UnsupportedModel("--dtype fp16 needs a GPU.", remedy="Use --dtype bf16 or fp32 on a CPU.")
    return wanted, DTYPES[wanted]
