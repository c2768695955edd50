"""The versions of the packages that decide an answer, from their metadata: nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

PACKAGES: Final = ("torch", "tokenizers", "pillow", "gradio")


@cache
def versions() -> Mapping[str, str]:
    """Package → version, for those of PACKAGES that are installed."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
