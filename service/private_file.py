"""Files that hold secrets: of the service's user without access for others, or of root for its group."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from service.contract.errors import SettingsError

Signature = tuple[int, ...] | None  # differs after each change of the file; None if it does not exist


@dataclass(frozen=True, slots=True)
class PrivateFile:
    """``what`` it is called in messages, which quote nothing of it; ``code`` and ``remedy`` of its errors."""

    path: Path
    what: str
    code: str
    remedy: str

    def read(self, most: int) -> bytes:
        """Return its content, at most ``most`` bytes. Raises SettingsError."""
        try:
            # Non-blocking, as the path may be a pipe.
            with open(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                self.check(os.fstat(file.fileno()))
                content = file.read(most + 1)
        except OSError as error:
            raise self.refused(f"{self} cannot be read: {error.strerror}.") from error
        if len(content) > most:
            raise self.refused(f"{self} is larger than {most} bytes.")
        return content

    def check(self, status: os.stat_result) -> None:
        """Raises SettingsError unless it is a regular file that only those may read who should."""
        if not stat.S_ISREG(status.st_mode):
            raise self.refused(f"{self} is not a regular file.")
        if status.st_uid not in (os.geteuid(), 0):
            raise self.refused(f"{self} belongs to another user.")
        allowed = 0o700 if status.st_uid == os.geteuid() else 0o750
        if stat.S_IMODE(status.st_mode) & ~allowed:
            raise self.refused(f"{self} is accessible to other users.", f"Run: chmod 600 {self.path}")

    def signature(self) -> Signature:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def refused(self, message: str, remedy: str | None = None) -> SettingsError:
        return SettingsError(message, remedy=remedy or self.remedy, code=self.code)

    def __str__(self) -> str:
        return f"The {self.what} {self.path}"
