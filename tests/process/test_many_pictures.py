"""Pillow's own test pictures, a thousand odd, broken and hostile files, through the API and the command line.

Run by ``make test-all``, which fetches them; ``PILLOW_PICTURES`` names their folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.instance import ROOT, Instance

FOLDER = os.environ.get("PILLOW_PICTURES", "")
TEXT = "there is a red circle"
REFUSALS = {
    *("not_an_image", "image_unsupported", "image_unreadable", "image_truncated", "image_too_large"),
    "too_slow_to_read",
}
pytestmark = pytest.mark.skipif(not FOLDER, reason="make test-all fetches the pictures")


def pictures() -> list[Path]:
    return sorted(path for path in Path(FOLDER).rglob("*") if path.is_file() and path.stat().st_size < 30e6)


def of_the_api(service: Instance, path: Path) -> dict[str, Any]:
    """The answer to one picture: the verdict's fields, or the code of the error."""
    (uploaded,) = service._post("/gradio_api/upload", *multipart(path.read_bytes()))
    image = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
    question = json.dumps({"data": [image, TEXT, None]}).encode()
    event = service._post("/gradio_api/call/judge", question, "application/json")["event_id"]
    with urllib.request.urlopen(f"{service.page}/gradio_api/call/judge/{event}", timeout=240) as stream:
        lines = stream.read().decode().splitlines()
    kind, data = next((a, b) for a, b in pairwise(lines) if a in ENDS)
    told = json.loads(data.removeprefix("data: "))
    return {"code": told["title"]} if kind == "event: error" else told[0]


ENDS = ("event: complete", "event: error")


def multipart(data: bytes) -> tuple[bytes, str]:
    boundary = "--a-boundary-of-the-tests"
    head = 'Content-Disposition: form-data; name="files"; filename="picture.png"\r\nContent-Type: image/png'
    body = f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


@pytest.fixture(scope="module")
def of_the_command_line() -> dict[str, dict[str, Any]]:
    lines = "".join(json.dumps({"image": str(path), "text": TEXT}) + "\n" for path in pictures())
    done = subprocess.run(
        [sys.executable, "-m", "ofa", "--model", "demo"],
        cwd=ROOT,
        input=lines,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 1, done.stderr[-2000:]  # some lines were not judged, and nothing else happened
    return {answer["image"]: answer for answer in map(json.loads, done.stdout.splitlines())}


def test_each_is_judged_or_refused_by_its_code_and_both_ways_agree(
    running_service: Instance, of_the_command_line: dict[str, dict[str, Any]]
) -> None:
    apart: dict[str, Any] = {}
    judged = 0
    for path in pictures():
        api, line = of_the_api(running_service, path), of_the_command_line[str(path)]
        if api.get("scores"):
            judged += 1
            agree = line.get("scores") == pytest.approx(api["scores"], abs=1e-3)
        else:
            agree = api["code"] == line["code"] and api["code"] in REFUSALS
        if not agree:
            apart[str(path.relative_to(FOLDER))] = (api, line)
    assert apart == {}
    assert judged > 300
    assert running_service.get("/livez")[0] == 200
    assert "BROKEN" not in running_service.log
    assert "Traceback" not in running_service.output
