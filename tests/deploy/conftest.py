"""The real service, shared with the tests of page and browser."""

from __future__ import annotations

from tests.service_process import running_service

__all__ = ["running_service"]
