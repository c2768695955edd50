"""The key that this server sends to the engine: the first line of a private file, read again when it
changes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from service.contract.errors import SettingsError
from service.private_file import PrivateFile

CHECK_SECONDS: Final = 1.0  # between two looks at the file
MAX_BYTES: Final = 4096
_KEY: Final = re.compile(r"[\x21-\x7e]{1,512}")
log = logging.getLogger(__name__)


class EngineKey:
    """For one thread. The constructor raises SettingsError."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._signature = private(path).signature()
        self._key = read(path)
        self._checked = clock()

    def current(self) -> str:
        """Return the key; of a file that cannot be read any more, the last one."""
        now = self._clock()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            self._reload()
        return self._key

    def _reload(self) -> None:
        if (signature := private(self._path).signature()) == self._signature:
            return
        self._signature = signature
        try:
            self._key = read(self._path)
        except SettingsError as error:
            log.error("ENGINE_KEY | OUTCOME=kept_old | MSG=%s | REMEDY=%s", error.message, error.remedy)
            return
        log.info("ENGINE_KEY | OUTCOME=loaded")


def read(path: Path) -> str:
    """Return the key in the file. Raises SettingsError, whose message quotes nothing of the file."""
    file = private(path)
    key = file.read(MAX_BYTES).decode("latin-1").partition("\n")[0].strip()
    if not _KEY.fullmatch(key):
        raise file.refused(f"The first line of {path} is not a key: 1 to 512 visible ASCII characters.")
    return key


def private(path: Path) -> PrivateFile:
    return PrivateFile(
        path,
        "engine key file",
        "engine_key",
        "Put a key into its first line, made with: python -m service.api_keys make --trusted.",
    )
