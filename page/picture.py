"""The picture input: upload, paste and camera as Gradio's, but it hands over a path and decodes nothing.

Gradio's own component opens and converts the file before any handler runs, fetches addresses a caller names,
and trusts a path that carries no metadata. Here a file that was uploaded to this server passes as its path,
everything else as a ``Refusal``; the service looks into the file itself, with its own limits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gradio as gr
from gradio.data_classes import ImageData

from page.uploads import FOLDER

# In a path: an upload folder, of this process or another.
EARLIER: Final = re.compile(rf"/{FOLDER}\d+-[^/]+/")


@dataclass(frozen=True)
class Refusal:
    """Why there is no path to hand over: a code of InputError."""

    code: str


class Picture(gr.Image):
    """A ``gr.Image`` whose value for a handler is a path in the upload folder, a Refusal, or None."""

    # Files of ours, outside the upload folder, that a handler may put into the input. Not a parameter:
    # Gradio reads what the browser needs from the constructor's signature, which must stay gr.Image's.
    own: frozenset[Path] = frozenset()

    def get_block_name(self) -> str:
        return "image"

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Gradio's hook on both ways: keep what is already in the upload folder, copy what is ours into it,
        and leave all else where it is, unread; ``preprocess`` refuses that."""
        if url_or_file_path is None:
            return None
        if _is_address(url_or_file_path) or not (
            self._uploaded(url_or_file_path) or Path(url_or_file_path) in self.own
        ):
            return str(url_or_file_path)
        return await super().async_move_resource_to_block_cache(url_or_file_path)

    def refusal(self, value: Any) -> Refusal | None:
        """Why a caller's ``value`` cannot be a picture of this process, by the path it names alone; to be
        asked first: Gradio raises for a path outside the upload folder, and a person would see nothing."""
        path = value.get("path") if isinstance(value, dict) else None
        if not isinstance(path, str) or _is_address(path) or self._uploaded(path):
            return None
        # A page that stayed open while the service was restarted names the folder of the earlier process.
        return Refusal("image_gone" if EARLIER.search(path) else "image_elsewhere")

    def preprocess(self, payload: ImageData | None) -> str | Refusal | None:  # type: ignore[override]
        if payload is None or (payload.path is None and payload.url is None):
            return None
        if payload.path is None or _is_address(payload.path) or not self._uploaded(payload.path):
            return Refusal("image_elsewhere")
        if not Path(payload.path).is_file():
            return Refusal("image_gone")
        return payload.path

    def api_info(self) -> dict[str, Any]:
        return {**super().api_info(), "additional_description": "A picture uploaded to this server."}

    def example_payload(self) -> Any:
        return {"path": "/path/to/picture.png", "meta": {"_type": "gradio.FileData"}}

    def example_value(self) -> Any:
        return "/path/to/picture.png"

    def _uploaded(self, path: str | Path) -> bool:
        try:
            return Path(path).resolve().is_relative_to(Path(self.GRADIO_CACHE).resolve())
        except (OSError, ValueError):  # a name too long, a null byte, a loop of links
            return False


def _is_address(path: str | Path) -> bool:
    return "://" in str(path) or str(path).startswith("data:")
