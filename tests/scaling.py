"""The commands of docs/scaling.md, so that tests run what the document says."""

from __future__ import annotations

import re

from lab import ROOT

DOCUMENT = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^([^\n]*)\n+ *```bash\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, list[str]]]:
    """Return of each block the line above it and its commands, without comments."""
    return [(above, _commands(text)) for above, text in BLOCK.findall(DOCUMENT)]


def _commands(text: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", text)
    stripped = (re.sub(r"(^|\s+)#\s.*", "", line).strip() for line in joined.splitlines())
    return [line for line in stripped if line]


def documented(start: str) -> list[str]:
    """Return the different commands that begin with ``start``; there is at least one."""
    found = [command for _, commands in blocks() for command in commands if command.startswith(start)]
    assert found, f"docs/scaling.md has no {start}"
    return list(dict.fromkeys(found))
