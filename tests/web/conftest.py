"""The real service, shared with the browser tests."""

from __future__ import annotations

from tests.service_process import running_service

__all__ = ["running_service"]
