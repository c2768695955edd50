"""The limits of served batches: bytes, rows, numbers, and days."""

from __future__ import annotations

from typing import Final

BATCH_BYTES: Final = 256 << 20  # of one batch: the uploaded file, and again what is stored of it
ROWS: Final = 20_000
CALLER_BATCHES: Final = 4  # of one caller, not yet ended
CALLER_BYTES: Final = 2 << 30
TOTAL_BYTES: Final = 4 << 30
TEXT: Final = 100_000  # characters of a text that is kept to be judged; no setting allows more
PAGE_BYTES: Final = 4 << 20  # of results read at once, but for a single larger one
ROW_BYTES: Final = 256  # what a row counts beside its texts
THUMBNAIL_BYTES: Final = 4096  # what a picture counts for its thumbnail
RESERVE: Final = 256 << 20  # bytes of the file system that stay free,
RESERVE_FRACTION: Final = 0.05  # or this fraction of a small one

DAY: Final = 86_400.0
DAYS_KEPT: Final = 7  # from the upload to the deletion
DAYS_REMEMBERED: Final = 30  # how long an expired id is known as such after that

GROUP: Final = 32  # rows of one picture judged together
CRASHES: Final = 3  # of the process while it judges a group, until its rows fail
TIMEOUTS: Final = 2  # and other failures that may pass, of a row, until it fails
