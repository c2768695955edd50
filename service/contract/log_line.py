"""The form of a log line: ``EVENT | KEY=value | KEY=value``."""

from __future__ import annotations


def fields(**values: object) -> str:
    """Return `` | KEY=value`` for each value that is not None."""
    return "".join(f" | {key.upper()}={value}" for key, value in values.items() if value is not None)
