"""Picture readers for the tests of the intake."""

from __future__ import annotations

from tests.reading import make_readers

__all__ = ["make_readers"]
