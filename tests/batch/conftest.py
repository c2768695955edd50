"""An application with a fake model."""

from __future__ import annotations

from tests.applications import make

__all__ = ["make"]
