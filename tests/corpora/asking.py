"""Send one request through the page's API."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any


def judge(page: str, picture: Path, text: str, patience: float = 240.0) -> dict[str, object]:
    """Return the answer, or ``{"code": …}`` of an error. Raises OSError for any status but 200."""
    boundary = "a-boundary-of-the-tests"
    head = f'Content-Disposition: form-data; name="files"; filename="picture{picture.suffix}"'
    part = f"--{boundary}\r\n{head}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
    body = part + picture.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    (path,) = _post(page + "/gradio_api/upload", body, f"multipart/form-data; boundary={boundary}")
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, text, None]
    question = json.dumps({"data": data}).encode()
    event = _post(page + "/gradio_api/call/judge", question, "application/json")["event_id"]
    with urllib.request.urlopen(f"{page}/gradio_api/call/judge/{event}", timeout=patience) as stream:
        lines = stream.read().decode().splitlines()
    kind = "complete" if "event: complete" in lines else "error"
    told = json.loads(lines[lines.index(f"event: {kind}") + 1].removeprefix("data: "))
    return dict(told[0]) if kind == "complete" else {"code": told["title"]}


def _post(url: str, body: bytes, content_type: str) -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": content_type})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)
