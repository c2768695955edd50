"""Times, in seconds, that the service and its guardian must agree on.

The first two are defaults of ``guardian.sh``; a test compares them.
"""

from __future__ import annotations

from typing import Final

START_STALL: Final = 300.0  # the guardian restarts loading without progress after this time
STOP_TIMEOUT: Final = 30.0  # from TERM to KILL

#: The longest wait of loading without visible progress: a pause between attempts, or another process.
LONGEST_PAUSE: Final = 240.0

# The steps of a stop, in order. Together they must be shorter than STOP_TIMEOUT.
STOP_BATCHES: Final = 1.0  # rows of served batches are cancelled
STOP_GRACE: Final = 15.0  # answering accepted requests: the default of --stop-grace and of --timeout
STOP_ENGINE: Final = 2.0  # the running computation reaches a cancel point
STOP_THREADS: Final = 2.0  # all other threads of the application together
STOP_PAGE_ANSWERS: Final = 1.0  # browsers fetch their answers
STOP_PAGE_CLOSE: Final = 2.0  # browsers close their connections …
STOP_PAGE_FORCED: Final = 1.0  # … or the page does
STOP_SIDECAR: Final = 2.0  # the health API's connections and threads
STOP_CHANNEL: Final = 1.0  # the guardian's channel
STOP_LOGS: Final = 1.0  # queued log lines

STOP_STEPS: Final = (
    STOP_BATCHES,
    *(STOP_GRACE, STOP_ENGINE, STOP_THREADS, STOP_PAGE_ANSWERS, STOP_PAGE_CLOSE, STOP_PAGE_FORCED),
    *(STOP_SIDECAR, STOP_CHANNEL, STOP_LOGS),
)
