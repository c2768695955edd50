"""The errors of the service: what users, log lines and exit codes report.

    ServiceError
    ├── InputError              400  the input cannot be judged; says what to change
    │   └── InvalidTexts             some of the texts cannot
    ├── Denied                       this caller may not ask
    │   ├── Unauthorized        401  no valid API key and no session
    │   ├── Forbidden           403  not allowed, now or later
    │   └── LimitReached        429  a limit of the caller's key; says when to retry
    ├── Busy                    503  no capacity now; says when to retry
    │   └── CallerBusy          429  no capacity for this caller; others are accepted
    ├── DeadlineExceeded        504  no answer within the time limit
    ├── Abandoned                    the caller cancelled
    ├── ShuttingDown            503  the process is stopping
    ├── SettingsError           exit 78  wrong flag, environment variable or address
    │   └── PortTaken           exit 69  port already in use
    ├── Hung                    exit 70  a computation does not stop
    ├── MemoryLimitReached      exit 75  resident or GPU memory went over its absolute limit
    ├── ModelError              503
    │   ├── NotReady                 still loading
    │   ├── Unreachable              the engine behind --engine does not answer
    │   ├── Unstable            exit 1   the probe fails even after a reload
    │   ├── TransientLoadError  exit 1   may pass: retried
    │   │   ├── HubUnavailable       the hub does not answer, or answers 5xx
    │   │   ├── DownloadInterrupted  a transfer was cut
    │   │   ├── DamagedFile          size or checksum differ from what the hub lists
    │   │   └── DiskFull             no disk space for the model files
    │   └── PermanentLoadError  exit 78  a retry cannot fix it: the guardian halts
    │       ├── ModelNotFound        no such folder or hub id
    │       ├── UnsupportedModel     a configuration or weights that are not supported
    │       ├── DamagedFolder        a damaged file in a local folder
    │       ├── UnusableWeights      weights that only produce NaN, verified and loaded twice
    │       └── MissingDependency    a missing package, Python or device
    └── InferenceError          500  the model failed on this request
        ├── OutOfMemory              host or device memory
        ├── DeviceLost          exit 71  the CUDA context is lost; only a new process helps
        ├── NotFinite                NaN or infinite scores
        ├── KeyRefused               the engine behind --engine does not accept this server's key
        ├── InvalidAnswer            what answers behind --engine is not this service's API
        └── ComputationStopped       cancelled at a cancel point

Messages are ours and never quote user input, so they may be logged and shown. A foreign exception is mapped
once, where it appears, and kept as ``__cause__``; its text goes no further.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from service.contract.causes import Denial, ExitCode, Outcome, Refusal

Fact = str | int | float


class ServiceError(Exception):
    """The root of the tree.

    ``http_status`` from 500 up counts as a failure of the service.
    ``code`` is for programs, ``message`` for people, ``remedy`` says what to do, and ``facts`` holds the
    values in the message for translations.
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

    @property
    def sentence(self) -> str:
        """What happened, and what to do."""
        return f"{self.message} {self.remedy}".strip()


class InputError(ServiceError):
    """The input cannot be judged; its code is an InputCode."""

    code = "input"
    http_status = 400


class InvalidTexts(InputError):
    """Some texts of a call cannot be judged. ``errors`` holds index and code of each; message, code and facts
    are those of the first."""

    def __init__(self, found: Sequence[tuple[int, InputError]]):
        first = found[0][1]
        super().__init__(first.message, code=first.code, remedy=first.remedy, **first.facts)
        self.errors = [(index, error.code) for index, error in found]


class Denied(ServiceError):
    """This caller may not ask; the code is a Denial."""


class Unauthorized(Denied):
    """No valid API key and no session; the code is ``no_key`` or ``wrong_key``."""

    code = Denial.NO_KEY
    http_status = 401
    default_remedy = "Send a key: Authorization: Bearer KEY, or X-API-Key: KEY."


class Forbidden(Denied):
    """The caller may not do this, now or later."""

    code = Denial.TEXTS_OVER_LIMIT
    http_status = 403


class LimitReached(Denied):
    """A limit of the caller's key; the code is ``rate_limit`` or ``concurrent_limit``. ``retry_after`` is in
    seconds."""

    code = Denial.RATE_LIMIT
    http_status = 429

    def __init__(self, message: str, *, code: Denial, limit: int, retry_after: int):
        remedy = f"Try again in {retry_after} s."
        super().__init__(message, code=code, remedy=remedy, limit=limit, retry_after=retry_after)
        self.retry_after = retry_after


class Busy(ServiceError):
    """No capacity now; the code is one of BUSY. ``retry_after`` is in seconds."""

    code = Refusal.QUEUE_FULL
    http_status = 503

    def __init__(self, message: str, *, retry_after: float, code: Refusal = Refusal.QUEUE_FULL):
        remedy = f"Try again in {retry_after:.0f} s."
        super().__init__(message, code=code, remedy=remedy, retry_after=retry_after)
        self.retry_after = retry_after


class CallerBusy(Busy):
    """The caller's own backlog is the reason."""

    http_status = 429

    def __init__(self, message: str, *, retry_after: float):
        super().__init__(message, retry_after=retry_after, code=Refusal.CALLER_LIMIT)


class DeadlineExceeded(ServiceError):
    code = "timeout"
    http_status = 504
    default_remedy = "Try again; if it happens often, raise --timeout or use a faster device."


class NoReader(DeadlineExceeded):
    """The picture waited for a reader until its deadline: that says nothing about the picture."""


class Abandoned(ServiceError):
    """The caller cancelled its request."""

    code = Outcome.ABANDONED

    def __init__(self) -> None:
        super().__init__("The caller cancelled the request.")


class ShuttingDown(ServiceError):
    code = Refusal.STOPPING
    http_status = 503
    default_remedy = "Try again when the service is back."


class SettingsError(ServiceError):
    code = "settings"
    exit_code = ExitCode.CONFIGURATION
    default_remedy = "See --help."


class PortTaken(SettingsError):
    """The port is already in use; the other process may end."""

    code = "port_taken"
    exit_code = ExitCode.PORT_TAKEN


class Hung(ServiceError):
    exit_code = ExitCode.HUNG
    default_remedy = "See the stacks of all threads in the post-mortem file of the run directory."


class MemoryLimitReached(ServiceError):
    exit_code = ExitCode.MEMORY_LIMIT
    default_remedy = "If it happens again soon, raise the limit or lower --queue-size."


class ModelError(ServiceError):
    code = "model"
    http_status = 503


class NotReady(ModelError):
    code = Refusal.LOADING
    default_remedy = "Wait until the model is loaded; see /startupz."


class Unreachable(ModelError):
    """The engine behind --engine does not answer, or its proxy reaches no instance."""

    code = Refusal.NO_INSTANCE
    default_remedy = "Check that it runs, and that --engine (OFA_ENGINE) is its address."


class Unstable(ModelError):
    code = "unstable"
    default_remedy = "The device, its memory or the dtype may be at fault: try --device cpu or --dtype fp32."


class TransientLoadError(ModelError):
    """Loading failed; another attempt may succeed."""

    code = "load_failed"


class HubUnavailable(TransientLoadError):
    code = "hub_unavailable"
    default_remedy = "Check the network and the hub's address, or pass a local folder with --model."


class DownloadInterrupted(TransientLoadError):
    code = "download_interrupted"
    default_remedy = "Start again: the fetched part is kept."


class DamagedFile(TransientLoadError):
    code = "damaged_file"
    default_remedy = "Start again: the damaged file is fetched again."


class DiskFull(TransientLoadError):
    code = "disk_full"
    default_remedy = "Free disk space, or move the cache with --cache-dir."


class PermanentLoadError(ModelError):
    """Loading failed; another attempt cannot succeed."""

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
    default_remedy = "Copy the folder again, or pass a hub id with --model."


class UnusableWeights(PermanentLoadError):
    code = "unusable_weights"
    default_remedy = "Try --dtype fp32 or --device cpu, then another copy of the model."


class MissingDependency(PermanentLoadError):
    code = "missing_dependency"
    default_remedy = "Install requirements.txt."


class InferenceError(ServiceError):
    code = "error"
    http_status = 500
    default_remedy = "Try again; the log has details under the request's id."


class OutOfMemory(InferenceError):
    default_remedy = "Try again; if it happens often, free memory on the device."


class DeviceLost(InferenceError):
    exit_code = ExitCode.DEVICE_LOST
    default_remedy = "The process restarts; try again in a moment."


class NotFinite(InferenceError):
    default_remedy = "The weights or the dtype may be at fault: try --dtype fp32, or fetch the model again."


class KeyRefused(InferenceError):
    default_remedy = (
        "Check --engine-key-file (OFA_ENGINE_KEY_FILE), and the key's line in the engine's --api-keys-file."
    )


class InvalidAnswer(InferenceError):
    default_remedy = "Check that --engine (OFA_ENGINE) is the address of this service's API, without /v1."


class ComputationStopped(InferenceError):
    """Raised by a cancel point: all requests of the computation have ended."""
