"""Whole applications over fakes."""

from __future__ import annotations

from tests.applications import make
from tests.fakes import clock, journal

__all__ = ["clock", "journal", "make"]
