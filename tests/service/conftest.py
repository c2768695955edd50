"""Whole applications over fakes."""

from __future__ import annotations

from tests.applications import make
from tests.fakes import clock, events

__all__ = ["clock", "events", "make"]
