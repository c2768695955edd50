"""The folder that uploads go to: private, emptied as time passes, gone when the page ends.

Gradio deletes the files it knows of after a while. What it leaves is cleared here: the folder it makes for
each file, and what an upload that was cut off had written so far.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

# Seconds. Gradio looks every SWEEP for files older than AGE; nothing is left after AGE + 3 * SWEEP.
AGE: Final = 780
SWEEP: Final = 120
FOLDER: Final = "ofa-page-"  # how a folder's name begins; the port follows


class Uploads:
    """A folder for the uploads of the page on ``port``. Use after that port is held: what an earlier process
    left when it was killed is removed, and nobody lives who could still need it."""

    def __init__(self, port: int) -> None:
        prefix = f"{FOLDER}{port}-"
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            if left.is_dir() and not left.is_symlink() and left.stat().st_uid == os.getuid():
                shutil.rmtree(left, ignore_errors=True)
        self.folder = Path(tempfile.mkdtemp(prefix=prefix))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="page-uploads", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and remove the folder with all that is in it."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def sweep(self, now: float) -> None:
        """Remove everything directly in the folder that was last changed long before ``now`` (Unix time)."""
        for entry in self.folder.iterdir():
            try:
                if now - entry.lstat().st_mtime > AGE + SWEEP:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            except OSError:
                continue  # gone meanwhile, or to be tried again the next time

    def _run(self) -> None:
        while not self._ended.wait(SWEEP):
            try:
                self.sweep(time.time())
            except OSError:
                continue
