"""The standard streams, whatever the locale."""

from __future__ import annotations

import io
import os
import sys


def use_utf8() -> None:
    """Write UTF-8 to standard output and error, or what PYTHONIOENCODING says; replace what that cannot hold.

    Under the locales C, Latin-1 or GBK a program that prints one other character would end there.
    """
    encoding = None if os.environ.get("PYTHONIOENCODING") else "utf-8"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=encoding, errors="replace")
