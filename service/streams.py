"""Standard streams independent of the locale."""

from __future__ import annotations

import io
import os
import sys


def use_utf8() -> None:
    """Use UTF-8, or PYTHONIOENCODING, for standard output and error; replace characters it cannot encode.

    Under locales such as C, Latin-1 or GBK, printing any other character would raise.
    """
    encoding = None if os.environ.get("PYTHONIOENCODING") else "utf-8"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=encoding, errors="replace")
