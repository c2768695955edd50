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

from page.uploads import FOLDER, Uploads
from service.contract.causes import InputCode

# In a path: an upload folder, of this process or another.
EARLIER: Final = re.compile(rf"/{FOLDER}\d+-[^/]+/")
# What Gradio's own schema says of a file, without what its clients up to 1.7 cannot read.
SCHEMA: Final = {
    "type": "object",
    "title": "ImageData",
    "properties": {
        "path": {"type": "string", "title": "Path", "description": "What /gradio_api/upload answered"},
        "orig_name": {"type": "string", "title": "Orig Name", "description": "Original filename"},
        "meta": {"type": "object", "title": "Meta", "default": {"_type": "gradio.FileData"}},
    },
    "additional_description": "A picture uploaded to this server.",
}


@dataclass(frozen=True)
class Refusal:
    """Why there is no path to hand over: a code of InputError."""

    code: InputCode


class Picture(gr.Image):
    """A ``gr.Image`` whose value for a handler is a path in the upload folder, a Refusal, or None."""

    # Not parameters: Gradio reads what the browser needs from the constructor's signature, which must stay
    # gr.Image's. ``own`` are files outside the upload folder that a handler may put into the input.
    uploads: Uploads
    own: frozenset[Path] = frozenset()

    def get_block_name(self) -> str:
        return "image"

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Gradio's hook on both ways, which would copy and fetch: everything stays where it is, unread.
        ``preprocess`` refuses what is not in the upload folder, ``postprocess`` puts there what is ours."""
        return None if url_or_file_path is None else str(url_or_file_path)

    def refusal(self, value: Any) -> Refusal | None:
        """Why a caller's ``value`` cannot be a picture of this process, by the path it names alone; to be
        asked first: Gradio raises for a path outside the upload folder, and a person would see nothing."""
        path = value.get("path") if isinstance(value, dict) else None
        if not isinstance(path, str) or _is_address(path) or self.uploads.within(path):
            return None
        # A page that stayed open while the service was restarted names the folder of the earlier process.
        return Refusal(InputCode.UPLOAD_GONE if EARLIER.search(path) else InputCode.IMAGE_ELSEWHERE)

    def preprocess(self, payload: ImageData | None) -> str | Refusal | None:  # type: ignore[override]
        if payload is None or (payload.path is None and payload.url is None):
            return None
        if payload.path is None or _is_address(payload.path) or not self.uploads.within(payload.path):
            return Refusal(InputCode.IMAGE_ELSEWHERE)
        found = self.uploads.find(payload.path)
        return Refusal(InputCode.UPLOAD_GONE) if found is None else str(found)

    def postprocess(self, value: Any) -> Any:
        picture = Path(value) if isinstance(value, str) else None
        return super().postprocess(str(self.uploads.keep(picture)) if picture in self.own else value)

    def api_info(self) -> dict[str, Any]:
        return dict(SCHEMA)

    def example_payload(self) -> Any:
        return {"path": "/path/to/picture.png", "meta": {"_type": "gradio.FileData"}}

    def example_value(self) -> Any:
        return "/path/to/picture.png"


def _is_address(path: str | Path) -> bool:
    return "://" in str(path) or str(path).startswith("data:")
