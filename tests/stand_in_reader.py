"""A stand-in for service.intake.reader_child that the picture controls, and helpers that use it.

A picture is a JSON object: ``declared_bytes`` is the memory it needs in bytes; reading waits for the file
``until`` after creating ``<until>.begun``.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

from service.intake.reader_child import Channel
from service.intake.reader_process import START, ReaderProcess, command


def running(program: str) -> ReaderProcess:
    """A reader process that runs this program."""
    return ReaderProcess([program if part == START else part for part in command()])


def stand_in() -> ReaderProcess:
    return running(START.replace("service.intake.reader_child", "tests.stand_in_reader"))


class Desk:
    """Pictures for stand-in readers, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def picture(self, name: str, declared_bytes: int = 0) -> Path:
        """Return a picture ``name`` that is read only after ``finish(name)``."""
        path = self._folder / f"{name}.picture.json"
        path.write_text(json.dumps({"declared_bytes": declared_bytes, "until": str(self._folder / name)}))
        return path

    def reading(self) -> set[str]:
        """Return the names of the pictures being read."""
        return {path.name.partition(".")[0] for path in self._folder.glob("*.begun")}

    def finish(self, *names: str) -> None:
        for name in names:
            (self._folder / name).touch()


def main() -> None:
    channel = Channel(socket.socket(fileno=0))
    channel.send({"ready": True})
    while True:
        job, data = channel.receive()
        told = json.loads(data)
        if told["declared_bytes"] > job["memory"]:
            channel.send({"declared_bytes": told["declared_bytes"]})
            if "seconds" not in channel.receive()[0]:
                channel.send({"dropped": True})
                continue
        Path(f"{told['until']}.begun").touch()
        while not Path(told["until"]).exists():
            time.sleep(0.002)
        pixels = bytes(3 * job["side"] ** 2)
        channel.send({"size": [3, 2], "upright": [3, 2], "bytes": len(pixels)}, pixels)
