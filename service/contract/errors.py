"""Every error the service can end in. Nothing else is allowed to reach a user, a log line or an exit code.

    ServiceError
    ├── InputError              400  what was sent cannot be judged; says what to change
    ├── Busy                    503  no room now; says when to come back
    ├── DeadlineExceeded        504  no answer within the time limit
    ├── Abandoned                    the caller went away
    ├── ShuttingDown            503  the process is stopping
    ├── SettingsError           exit 78  wrong flag, environment variable or address
    │   └── PortTaken           exit 69  another process listens there
    ├── Hung                    exit 70  a computation does not stop
    ├── MemoryLimitReached      exit 75  resident or GPU memory went over its absolute limit
    ├── ModelError              503
    │   ├── NotReady                 still loading
    │   ├── Unstable            exit 1   answers its probe wrongly even after a reload
    │   ├── TransientLoadError  exit 1   may go away: tried again
    │   │   ├── HubUnavailable       the hub does not answer, or answers 5xx
    │   │   ├── DownloadInterrupted  a transfer was cut
    │   │   ├── DamagedFile          size or checksum differ from what the hub lists
    │   │   └── DiskFull             no room for the model files
    │   └── PermanentLoadError  exit 78  no retry mends it: the guardian halts
    │       ├── ModelNotFound        no such folder or hub id
    │       ├── UnsupportedModel     a configuration we would compute wrongly, weights of another one
    │       ├── DamagedFolder        a local folder with a damaged file, which nobody can fetch anew
    │       ├── UnusableWeights      weights that never gave a finite score, loaded and verified twice
    │       └── MissingDependency    a package, a Python or a device that is not there
    └── InferenceError          500  the model could not finish this request
        ├── OutOfMemory              host or device memory
        ├── DeviceLost          exit 71  the CUDA context is dead; only a new process helps
        ├── NotFinite                NaN or infinite scores
        └── ComputationStopped       cancelled at a layer boundary

Messages are ours and hold no user input, so they may be logged and shown. A foreign exception is mapped
once, at the edge where it appears, and kept as ``__cause__``; its own text never goes further.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from service.contract.causes import ExitCode, Outcome, Refusal

Fact = str | int | float


class ServiceError(Exception):
    """The root of the tree.

    ``code`` is the stable word for programs, ``message`` the sentence for people, ``remedy`` what to do
    about it, ``facts`` the figures in the message, so that a page can say it in another language.
    """

    code: str = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = ExitCode.LOAD_FAILED
    default_remedy: ClassVar[str] = ""

    def __init__(self, message: str, *, code: str | None = None, remedy: str | None = None, **facts: Fact):
        super().__init__(message)
        self.message = message
        self.remedy = self.default_remedy if remedy is None else remedy
        self.facts: Mapping[str, Fact] = facts
        if code is not None:
            self.code = code


class InputError(ServiceError):
    """The input cannot be judged; its code is an InputCode."""

    code = "input"
    http_status = 400


class Busy(ServiceError):
    """No room for the request now, by one of the codes in BUSY; ``retry_after`` is in seconds."""

    code = Refusal.QUEUE_FULL
    http_status = 503

    def __init__(self, message: str, *, retry_after: float, code: Refusal = Refusal.QUEUE_FULL):
        remedy = f"Try again in {retry_after:.0f} s."
        super().__init__(message, code=code, remedy=remedy, retry_after=retry_after)
        self.retry_after = retry_after


class DeadlineExceeded(ServiceError):
    code = "timeout"
    http_status = 504
    default_remedy = "Try again; if it happens often, raise --timeout or use a faster device."


class Abandoned(ServiceError):
    """Nobody waits for the answer any more."""

    code = Outcome.ABANDONED

    def __init__(self) -> None:
        super().__init__("The caller went away.")


class ShuttingDown(ServiceError):
    code = Refusal.STOPPING
    http_status = 503
    default_remedy = "Try again when the service is back."


class SettingsError(ServiceError):
    code = "settings"
    exit_code = ExitCode.CONFIGURATION
    default_remedy = "See --help."


class PortTaken(SettingsError):
    """Another process listens there; it may end."""

    code = "port_taken"
    exit_code = ExitCode.PORT_TAKEN


class Hung(ServiceError):
    exit_code = ExitCode.HUNG
    default_remedy = "The post-mortem file in the run folder has every thread's stack."


class MemoryLimitReached(ServiceError):
    exit_code = ExitCode.MEMORY_LIMIT
    default_remedy = "If it returns soon, give a higher limit or a smaller --queue-size."


class ModelError(ServiceError):
    code = "model"
    http_status = 503


class NotReady(ModelError):
    code = Refusal.LOADING
    default_remedy = "Wait until the model is loaded; /startupz says when."


class Unstable(ModelError):
    code = "unstable"
    default_remedy = "Suspect the device, its memory or the dtype: try --device cpu or --dtype fp32."


class TransientLoadError(ModelError):
    """Loading failed in a way that another attempt may mend."""

    code = "load_failed"


class HubUnavailable(TransientLoadError):
    code = "hub_unavailable"
    default_remedy = "Check the network and the hub's address, or give a local folder with --model."


class DownloadInterrupted(TransientLoadError):
    code = "download_interrupted"
    default_remedy = "Start again: what has been fetched is kept."


class DamagedFile(TransientLoadError):
    code = "damaged_file"
    default_remedy = "Start again: the damaged file is fetched anew."


class DiskFull(TransientLoadError):
    code = "disk_full"
    default_remedy = "Free disk space, or put the cache elsewhere with --cache-dir."


class PermanentLoadError(ModelError):
    """Loading failed in a way that no other attempt will mend."""

    code = "load_impossible"
    exit_code = ExitCode.CONFIGURATION


class ModelNotFound(PermanentLoadError):
    code = "model_not_found"
    default_remedy = (
        "Check --model: 'demo', a folder, or a hub id such as iic/ofa_visual-entailment_snli-ve_large_en."
    )


class UnsupportedModel(PermanentLoadError):
    code = "unsupported_model"
    default_remedy = "Use an OFA visual-entailment model, or --backend modelscope."


class DamagedFolder(PermanentLoadError):
    code = "damaged_folder"
    default_remedy = "Copy the folder again, or give a hub id with --model."


class UnusableWeights(PermanentLoadError):
    code = "unusable_weights"
    default_remedy = "Try --dtype fp32 or --device cpu; if it stays, take another copy of the model."


class MissingDependency(PermanentLoadError):
    code = "missing_dependency"
    default_remedy = "Install what requirements.txt lists."


class InferenceError(ServiceError):
    code = "error"
    http_status = 500
    default_remedy = "Try again; the log has the details under the request's id."


class OutOfMemory(InferenceError):
    default_remedy = "Try again; free memory on the device if it happens often."


class DeviceLost(InferenceError):
    exit_code = ExitCode.DEVICE_LOST
    default_remedy = "The process restarts itself; try again in a moment."


class NotFinite(InferenceError):
    default_remedy = "The weights or the dtype are at fault: try --dtype fp32, or fetch the model again."


class ComputationStopped(InferenceError):
    """Raised by a cancel point to leave a computation nobody waits for any more."""
