"""All codes in logs, answers, metrics and exit statuses. Programs read codes, never sentences.

``guardian/causes.sh`` has the same names for bash; a test compares the two.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class ExitCode(IntEnum):
    """The exit status of the process, by which the guardian decides."""

    ORDERLY = 0
    LOAD_FAILED = 1
    PORT_TAKEN = 69
    HUNG = 70
    DEVICE_LOST = 71
    MEMORY_LIMIT = 75
    CONFIGURATION = 78


class Refusal(StrEnum):
    """Why a valid request is not accepted now."""

    QUEUE_FULL = "queue_full"
    CALLER_LIMIT = "caller_limit"  # its caller has too much waiting; other callers are accepted
    TOO_LATE = "too_late"  # its estimated completion is too close to the time limit
    STUCK = "stuck"  # a cancelled computation still runs
    LOADING = "loading"
    STOPPING = "stopping"
    NO_INSTANCE = "no_instance"  # the engine elsewhere, or every instance behind a proxy, cannot be reached


#: The refusals that an answer reports as ``reason: "busy"``.
BUSY: Final = frozenset({Refusal.QUEUE_FULL, Refusal.CALLER_LIMIT, Refusal.TOO_LATE, Refusal.STUCK})


class Denial(StrEnum):
    """Why a caller may not ask, whatever its request and the load."""

    NO_KEY = "no_key"  # and no session
    WRONG_KEY = "wrong_key"
    CROSS_ORIGIN = "cross_origin"  # a session's request from a page of another origin
    TEXTS_OVER_LIMIT = "texts_over_limit"  # more than the key may ask in a minute
    RATE_LIMIT = "rate_limit"
    CONCURRENT_LIMIT = "concurrent_limit"


class Outcome(StrEnum):
    """How a request ended; an accepted one in one of the first five."""

    ANSWERED = "answered"
    TIMEOUT = "timeout"
    ERROR = "error"
    ABANDONED = "abandoned"
    STOPPING = "stopping"
    INVALID = "invalid"  # the input cannot be judged
    REJECTED = "rejected"  # not accepted, by a Refusal


class InputCode(StrEnum):
    """Why input cannot be judged."""

    NO_IMAGE = "no_image"
    NO_TEXT = "no_text"
    TOO_MANY_TEXTS = "too_many_texts"
    TEXT_TOO_LONG = "text_too_long"
    LANGUAGE = "language"  # mostly in a script that the model's language does not use
    NOT_AN_IMAGE = "not_an_image"
    IMAGE_BYTES_TOO_LARGE = "image_bytes_too_large"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TRUNCATED = "image_truncated"
    IMAGE_UNREADABLE = "image_unreadable"
    IMAGE_UNSUPPORTED = "image_unsupported"  # a picture format that would be decoded wrongly
    IMAGE_ELSEWHERE = "image_elsewhere"  # not a picture uploaded to this process
    UPLOAD_GONE = "upload_gone"  # uploaded, but deleted since
    TOO_SLOW_TO_READ = "too_slow_to_read"
    PREMISE_REFUSED = "premise_refused"
    PREMISE_NEEDED = "premise_needed"


class ApiCode(StrEnum):
    """Why the API for programs refuses a call, beside an InputCode and a Refusal."""

    MALFORMED = "malformed"  # not HTTP, a form or JSON as they are specified
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    TOO_SLOW = "too_slow"  # the body did not arrive in time
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    INVALID_FIELD = "invalid_field"
    INVALID_ID = "invalid_id"
    NO_ROOM = "no_room"  # no memory for another body


class LineCode(StrEnum):
    """Why a row of a list, or a line of the command line's input, is refused, beside an InputCode."""

    MALFORMED = "malformed"  # not a JSON object in UTF-8, or quotes that do not match
    LINE_TOO_LONG = "line_too_long"
    TOO_FEW_COLUMNS = "too_few_columns"
    TOO_MANY_COLUMNS = "too_many_columns"


class ListCode(StrEnum):
    """Why a work list, or the archive around it, is refused as a whole."""

    LIST_MISSING = "list_missing"  # no such file, or an archive or folder with neither list nor pairs
    LIST_AMBIGUOUS = "list_ambiguous"  # an archive with several lists
    LIST_EMPTY = "list_empty"
    LIST_FORM = "list_form"  # not a form of list that is read
    LIST_ENCODING = "list_encoding"
    LIST_UNREADABLE = "list_unreadable"  # damaged
    LIST_TOO_LARGE = "list_too_large"  # rows, cells or bytes
    COLUMN_MISSING = "column_missing"
    COLUMN_AMBIGUOUS = "column_ambiguous"
    XLSX_NOT_INSTALLED = "xlsx_not_installed"
    ARCHIVE_UNSAFE = "archive_unsafe"  # a name, link or archive inside that is not allowed
    ARCHIVE_ENCRYPTED = "archive_encrypted"
    ARCHIVE_TOO_LARGE = "archive_too_large"  # members or inflated bytes
    ARCHIVE_UNREADABLE = "archive_unreadable"


class BatchCode(StrEnum):
    """Why the service does not take a batch, or does not return one, beside an ApiCode and a ListCode."""

    BATCHES_OFF = "batches_off"  # no folder that can hold them
    NOT_HERE = "not_here"  # this server passes calls on to others and keeps no batches
    BATCH_LIMIT = "batch_limit"  # its caller has too many batches, or too many bytes of them
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    EXPIRED = "expired"


class RowCode(StrEnum):
    """Why a row of a served batch has no verdict, beside an InputCode and a LineCode."""

    TIMEOUT = "timeout"  # twice
    ERROR = "error"
    CRASHED = "crashed"  # the process ended three times while it judged the row's picture


class RunCode(StrEnum):
    """Why a local run of a list does not start."""

    OUTPUT_EXISTS = "output_exists"
    OUTPUT_FORM = "output_form"
    OUTPUT_UNWRITABLE = "output_unwritable"
    RUN_IN_PROGRESS = "run_in_progress"  # another process writes the same output
    LIST_CHANGED = "list_changed"
    MODEL_CHANGED = "model_changed"
    OPTIONS_CHANGED = "options_changed"
    JOURNAL_UNREADABLE = "journal_unreadable"


class CalibrationCode(StrEnum):
    """Why a calibration file is ignored."""

    UNREADABLE = "unreadable"
    PERMISSIONS = "permissions"  # another user may have changed it
    MALFORMED = "malformed"
    OTHER_WEIGHTS = "other_weights"  # it was measured with other weights


class RestartCause(StrEnum):
    """Why the guardian restarts its instance."""

    HUNG = "hung"
    UNHEALTHY = "unhealthy"
    START_TIMEOUT = "start_timeout"
    START_STALLED = "start_stalled"
    PORT_TAKEN = "port_taken"
    OOM_KILLED = "oom_killed"
    SIGNAL = "signal"
    DEVICE_LOST = "device_lost"
    MEMORY_LIMIT = "memory_limit"
    FAILED = "failed"
    ENDED = "ended"
    ASKED = "asked"
    OTHER = "other"


class GuardianEvent(StrEnum):
    """Other events in restart.log, also written as ``CAUSE=…``."""

    HEALTHY = "healthy"
    RECOVERED = "recovered"
    GAVE_UP = "gave_up"
    HALTED = "halted"
    NOT_LEAVING = "not_leaving"  # TERM did not end the process in time
    UNDEAD = "undead"  # KILL does not end it
    LEFTOVERS = "leftovers"  # processes remained in its group
    GUARDIAN_ENDED = "guardian_ended"
