"""The picture input: Gradio's, but its value is the path of an upload, not decoded.

Gradio's own component decodes the file before the handler runs, fetches URLs that a caller names, and trusts
a path without metadata. Here an uploaded file becomes its path and everything else an ``InvalidPicture``; the
service decodes the file within its own limits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gradio as gr
from gradio.data_classes import ImageData

from page.uploads import FOLDER, Uploads
from service.contract.causes import InputCode

# An upload folder in a path, of this process or another.
UPLOAD_FOLDER: Final = re.compile(rf"/{FOLDER}\d+-[^/]+/")
# Gradio's own schema of a file, without the parts that its clients up to 1.7 cannot parse.
SCHEMA: Final = {
    "type": "object",
    "title": "ImageData",
    "properties": {
        "path": {
            "type": "string",
            "title": "Path",
            "description": "The path that /gradio_api/upload returned",
        },
        "orig_name": {"type": "string", "title": "Orig Name", "description": "Original filename"},
        "meta": {"type": "object", "title": "Meta", "default": {"_type": "gradio.FileData"}},
    },
    "additional_description": "A picture uploaded to this server.",
}


@dataclass(frozen=True)
class InvalidPicture:
    """Why the value has no path."""

    code: InputCode


class Picture(gr.Image):
    """A ``gr.Image`` whose value in a handler is a path in the upload folder, an InvalidPicture, or None."""

    # Not constructor parameters: Gradio derives the browser's properties from the signature, which must stay
    # gr.Image's. ``examples`` are the files outside the upload folder that a handler may return.
    uploads: Uploads
    examples: frozenset[Path] = frozenset()

    def get_block_name(self) -> str:
        return "image"

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Override Gradio's hook, which would copy files and fetch URLs. ``preprocess`` refuses paths outside
        the upload folder; ``postprocess`` copies examples into it."""
        return None if url_or_file_path is None else str(url_or_file_path)

    def invalid(self, value: Any) -> InvalidPicture | None:
        """Return an InvalidPicture for a path outside the upload folder, else None. Check it before Gradio
        does, which raises an error that the page does not show."""
        path = value.get("path") if isinstance(value, dict) else None
        if not isinstance(path, str) or _is_url(path) or self.uploads.within(path):
            return None
        # A page that stayed open during a restart still names the previous process's folder.
        gone = UPLOAD_FOLDER.search(path)
        return InvalidPicture(InputCode.UPLOAD_GONE if gone else InputCode.IMAGE_ELSEWHERE)

    def preprocess(self, payload: ImageData | None) -> str | InvalidPicture | None:  # type: ignore[override]
        if payload is None or (payload.path is None and payload.url is None):
            return None
        if payload.path is None or _is_url(payload.path) or not self.uploads.within(payload.path):
            return InvalidPicture(InputCode.IMAGE_ELSEWHERE)
        found = self.uploads.find(payload.path)
        return InvalidPicture(InputCode.UPLOAD_GONE) if found is None else str(found)

    def postprocess(self, value: Any) -> Any:
        picture = Path(value) if isinstance(value, str) else None
        return super().postprocess(str(self.uploads.keep(picture)) if picture in self.examples else value)

    def api_info(self) -> dict[str, Any]:
        return dict(SCHEMA)

    def example_payload(self) -> Any:
        return {"path": "/path/to/picture.png", "meta": {"_type": "gradio.FileData"}}

    def example_value(self) -> Any:
        return "/path/to/picture.png"


def _is_url(path: str | Path) -> bool:
    return "://" in str(path) or str(path).startswith("data:")
