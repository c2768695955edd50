"""``python -m ofa``: judge pairs from the command line; the body is ``batch.command``."""

from __future__ import annotations

import sys

from batch.command import main

if __name__ == "__main__":
    sys.exit(main())
