"""Times that the service and its guardian have to agree on, in seconds, each in one place.

The first two are defaults of ``guardian.sh``; a test compares them.
"""

from __future__ import annotations

from typing import Final

START_STALL: Final = 300.0  # loading that shows no progress for so long is restarted
STOP_TIMEOUT: Final = 30.0  # from TERM to KILL

#: What loading may wait for without visible progress: the pause before the next attempt, another process.
LONGEST_PAUSE: Final = 240.0

# A stop goes through these steps, one after the other; they have to end before KILL comes.
STOP_GRACE: Final = 15.0  # accepted requests are answered: the default of --stop-grace, and of --timeout
STOP_ENGINE: Final = 2.0  # the running computation reaches its next cancel point
STOP_THREADS: Final = 2.0  # all other threads of the application together
STOP_PAGE_ANSWERS: Final = 1.0  # answers that are ready are fetched from the page
STOP_PAGE_CLOSE: Final = 2.0  # the page's connections close by themselves …
STOP_PAGE_FORCED: Final = 1.0  # … or are closed
STOP_SIDECAR: Final = 2.0  # its connections, then its threads
STOP_CHANNEL: Final = 2.0  # the guardian's
STOP_LOGS: Final = 1.0  # lines on their way to the disk

STOP_STEPS: Final = (
    *(STOP_GRACE, STOP_ENGINE, STOP_THREADS, STOP_PAGE_ANSWERS, STOP_PAGE_CLOSE, STOP_PAGE_FORCED),
    *(STOP_SIDECAR, STOP_CHANNEL, STOP_LOGS),
)
