"""The versions of the packages that affect answers, read from their metadata without importing them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

PACKAGES: Final = ("torch", "tokenizers", "pillow", "gradio")


@cache
def versions() -> Mapping[str, str]:
    """Return package → version for the installed ones of PACKAGES."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
