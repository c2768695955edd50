"""Our own network behind the engine's protocol; the only place in the service that knows torch or ofa.

Both are imported when the model is loaded, so that page and health API are up before them. Every foreign
error is mapped here, once, to a ServiceError that keeps it as its cause; its own text goes no further.
"""

from __future__ import annotations

import errno
import gc
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

from service.errors import (
    DamagedFile,
    DeviceLost,
    DiskFull,
    InferenceError,
    InputError,
    MissingDependency,
    NotReady,
    OutOfMemory,
    ServiceError,
    TransientLoadError,
    UnsupportedModel,
)
from service.protocols import CancelPoint
from service.request import Pair

if TYPE_CHECKING:
    import torch

    from ofa.model import EntailmentModel

# After these the CUDA context is gone for good: every later call fails the same way.
_LOST: Final = re.compile(
    r"device-side assert|illegal memory access|illegal instruction|illegal address|misaligned address"
    r"|unspecified launch failure|launch timed out|uncorrectable|hardware stack error"
    r"|devices? is unavailable"
    r"|context is destroyed|invalid program counter|GPU (has fallen|is lost)"
    r"|(CUDNN|CUBLAS)_STATUS_EXECUTION_FAILED",
    re.IGNORECASE,
)
_MEMORY: Final = re.compile(
    r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|cannot allocate memory",
    re.IGNORECASE,
)
_log = logging.getLogger(__name__)


class NativePredictor:
    """An ``ofa.model.EntailmentModel`` on one device. ``device`` and ``dtype`` may be ``auto``; ``threads`` 0
    leaves the number to torch."""

    def __init__(self, *, device: str = "auto", dtype: str = "auto", threads: int = 0) -> None:
        self._wanted_device = device
        self._wanted_dtype = dtype
        self._threads = threads
        self._model: EntailmentModel | None = None
        self._device = ""
        self._dtype = ""

    @property
    def device(self) -> str:
        return self._device

    @property
    def dtype(self) -> str:
        return self._dtype

    @property
    def takes_premise(self) -> bool | None:
        slots = self._model.task.prompt_slots if self._model is not None else None
        return None if slots is None else slots == 2

    def load(self, folder: Path) -> None:
        """Raises DamagedFile, DiskFull and other TransientLoadErrors, UnsupportedModel, MissingDependency."""
        self.close()
        with _load_errors():
            import torch

            from ofa.model import EntailmentModel

            if self._threads:
                torch.set_num_threads(self._threads)
            device = _choose_device(self._wanted_device)
            name, dtype = _choose_dtype(self._wanted_dtype, device)
            self._model = EntailmentModel.load(folder, device, dtype)
            self._device, self._dtype = device, name
            gpu = torch.cuda.get_device_name(device) if device != "cpu" else None
        _log.info(
            "DEVICE | %s | DTYPE=%s | THREADS=%d%s",
            device,
            name,
            torch.get_num_threads(),
            f" | GPU={gpu}" if gpu else "",
        )

    def prepare(self, image: Image.Image) -> Image.Image:
        """The square the network sees. Resizing it there again changes no pixel, so the answer is the same,
        and a waiting request holds less than a megabyte whatever its picture's size."""
        model = self._model
        if model is None:
            raise NotReady("The model is not loaded.")
        from ofa.image import to_rgb

        side = model.task.patch_image_size
        return to_rgb(image).resize((side, side), Image.Resampling.BICUBIC)

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> list[dict[str, float]]:
        """Raises OutOfMemory, DeviceLost, InputError for a premise the prompt cannot take, InferenceError."""
        model = self._model
        if model is None:
            raise NotReady("The model is not loaded.")
        from ofa.model import Pair as NetworkPair

        with _inference_errors():
            return model.judge([NetworkPair(p.image, p.hypothesis, p.premise) for p in pairs], cancel_point)

    def gpu(self) -> tuple[str, int, int] | None:
        if not self._device.startswith("cuda"):
            return None
        import torch

        free, total = torch.cuda.mem_get_info(self._device)
        return torch.cuda.get_device_name(self._device), total - free, total

    def close(self) -> None:
        """Drop the model and the memory cached for it."""
        on_gpu, self._model, self._device = self._device.startswith("cuda"), None, ""
        gc.collect()
        if on_gpu:
            import torch

            torch.cuda.empty_cache()


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
            f"--device {wanted} was asked for, but torch {torch.__version__} sees {count} CUDA devices.",
            remedy="Use --device auto or cpu, or install the driver and a CUDA build of torch.",
        )
    return f"cuda:{index}"


def _choose_dtype(wanted: str, device: str) -> tuple[str, torch.dtype]:
    import torch

    name = "fp32" if wanted == "auto" else wanted
    if name == "fp16" and device == "cpu":
        raise UnsupportedModel("--dtype fp16 needs a GPU.", remedy="Use --dtype bf16 or fp32 on a CPU.")
    return name, {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


@contextmanager
def _load_errors() -> Iterator[None]:
    try:
        yield
    except ServiceError:
        raise
    except ImportError as error:
        raise MissingDependency(f"The package {error.name or 'torch'} is missing or broken.") from error
    except Exception as error:
        raise _load_error(error) from error


def _load_error(error: Exception) -> ServiceError:
    from ofa.errors import CheckpointError, OFAError, UnsupportedConfig

    # ofa's own messages speak of configuration fields and weight names, never of user input.
    if isinstance(error, UnsupportedConfig):
        return UnsupportedModel(f"{error}.")
    if isinstance(error, CheckpointError):
        return DamagedFile(f"{error}.")
    if isinstance(error, OFAError):
        return UnsupportedModel(f"{error}.")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DiskFull("No room on the disk while loading the model.")
    if isinstance(error, FileNotFoundError):
        return DamagedFile("A file of the model is missing.")
    if isinstance(error, MemoryError) or _MEMORY.search(str(error)):
        return TransientLoadError(
            "There is not enough memory for the model.", remedy="Free memory, or use a smaller model or bf16."
        )
    return TransientLoadError(f"Unexpected {type(error).__name__} while loading the model.")


@contextmanager
def _inference_errors() -> Iterator[None]:
    try:
        yield
    except ServiceError:  # our own, raised by the cancel point
        raise
    except Exception as error:
        raise _inference_error(error) from error


def _inference_error(error: Exception) -> ServiceError:
    import torch

    from ofa.errors import TextError

    text = str(error)
    if isinstance(error, TextError):
        return InputError(
            "This model's prompt and these texts do not fit.",
            code="premise_refused",
            remedy="Leave the premise out, or give one if there is none.",
        )
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return OutOfMemory("The GPU's memory is full.")
    if isinstance(error, RuntimeError) and _LOST.search(text):
        return DeviceLost("The CUDA context is lost.")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY.search(text)):
        where = "GPU's" if "CUDA" in text or "CUBLAS" in text or "CUDNN" in text else "machine's"
        return OutOfMemory(f"The {where} memory is full.")
    return InferenceError(f"Unexpected {type(error).__name__} in the model.")
