"""What is counted and told is that of whole applications."""

from __future__ import annotations

from tests.applications import make

__all__ = ["make"]
