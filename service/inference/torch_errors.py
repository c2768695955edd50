"""Maps the errors of torch and ofa to ServiceErrors, with the original as the cause."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from service.contract.errors import (
    DamagedFile,
    DeviceLost,
    DiskFull,
    InferenceError,
    InputError,
    MissingDependency,
    OutOfMemory,
    ServiceError,
    TransientLoadError,
    UnsupportedModel,
)

# After these errors the CUDA context is lost: every later call fails the same way.
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


@contextmanager
def load_errors() -> Iterator[None]:
    try:
        yield
    except ServiceError:
        raise
    except ImportError as error:
        raise MissingDependency(f"The package {error.name or 'torch'} is missing or broken.") from error
    except Exception as error:
        raise _load_error(error) from error


def _load_error(error: Exception) -> ServiceError:
    from ofa.errors import CheckpointError, Misfit, OFAError, UnsupportedConfig

    # The messages of ofa name configuration fields and weights, never user input.
    if isinstance(error, UnsupportedConfig):
        return UnsupportedModel(f"{error}.")
    if isinstance(error, Misfit):  # the file is intact, so another attempt would not help
        return UnsupportedModel(f"{error}.")
    if isinstance(error, CheckpointError):
        return DamagedFile(f"{error}.")
    if isinstance(error, OFAError):
        return UnsupportedModel(f"{error}.")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DiskFull("No disk space left while loading the model.")
    if isinstance(error, FileNotFoundError):
        return DamagedFile("A file of the model is missing.")
    if isinstance(error, MemoryError) or _MEMORY.search(str(error)):
        return TransientLoadError(
            "There is not enough memory for the model.", remedy="Free memory, or use a smaller model or bf16."
        )
    return TransientLoadError(f"Unexpected {type(error).__name__} while loading the model.")


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _MEMORY.search(str(error)) is not None
    )


@contextmanager
def inference_errors() -> Iterator[None]:
    try:
        yield
    except ServiceError:  # raised by the cancel point
        raise
    except Exception as error:
        raise _inference_error(error) from error


def _inference_error(error: Exception) -> ServiceError:
    import torch

    from ofa.errors import TextError

    text = str(error)
    if isinstance(error, TextError):
        return InputError(
            "The model cannot judge these texts.",
            code=error.code,
            remedy="Check whether it takes a premise.",
        )
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return OutOfMemory("The GPU's memory is full.")
    if isinstance(error, RuntimeError) and _LOST.search(text):
        return DeviceLost("The CUDA context is lost.")
    if is_out_of_memory(error):
        where = "GPU's" if "CUDA" in text or "CUBLAS" in text or "CUDNN" in text else "machine's"
        return OutOfMemory(f"The {where} memory is full.")
    return InferenceError(f"Unexpected {type(error).__name__} in the model.")
