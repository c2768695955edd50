"""Log files for the tests of the telemetry."""

from __future__ import annotations

from tests.written_logs import console, open_logs

__all__ = ["console", "open_logs"]
