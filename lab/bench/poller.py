"""A monitor process: `python -m lab.bench.poller PORT` polls three endpoints at 1 Hz each."""

from __future__ import annotations

import sys
import time
from http.client import HTTPConnection
from typing import Final

ENDPOINTS: Final = ("/health/simple", "/livez", "/readyz")


def ask(port: int, path: str) -> int:
    """Return the status of one answer on a new connection, as most monitors do. Raises OSError."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def main() -> None:
    """Poll forever, the three endpoints spread over the second."""
    port = int(sys.argv[1])
    print("asking", flush=True)
    while True:
        for path in ENDPOINTS:
            ask(port, path)
            time.sleep(1 / len(ENDPOINTS))


if __name__ == "__main__":
    main()
