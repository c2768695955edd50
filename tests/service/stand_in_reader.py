"""A reader that does as the picture says, in place of service.reader_child.

A picture is a JSON object: its ``name``, ``promise`` bytes of memory that it needs, and ``until``, a file
without which it is not read. Before it waits for that, a file ``<until>.<name>`` tells that it has begun.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

from service.reader_child import Channel


def main() -> None:
    channel = Channel(socket.socket(fileno=0))
    channel.send({"ready": True})
    while True:
        job, data = channel.receive()
        told = json.loads(data)
        if told.get("promise", 0) > job["memory"]:
            channel.send({"promise": told["promise"]})
            if "seconds" not in channel.receive()[0]:
                channel.send({"dropped": True})
                continue
        if until := told.get("until"):
            Path(f"{until}.{told['name']}").touch()
            while not Path(until).exists():
                time.sleep(0.002)
        pixels = bytes(3 * job["side"] ** 2)
        channel.send({"size": [3, 2], "bytes": len(pixels)}, pixels)
