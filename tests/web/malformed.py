"""A page that gets malformed requests, and what must hold after each: no error, no input in the output."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.web.client import Page, serving
from tests.web.raw import exchange, request

SECRET = "xylophonist"
MAX_BYTES = 100_000
LIMIT = 4 * MAX_BYTES + 65_536  # of an upload's body
JUDGE = "/gradio_api/call/judge"
JOIN = "/gradio_api/queue/join"
UPLOAD = "/gradio_api/upload"
QUESTION = json.dumps({"data": [None, SECRET, None]}).encode()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with serving(tmp_path_factory.mktemp("page"), "--max-bytes", str(MAX_BYTES)) as page:
        yield page


@pytest.fixture(autouse=True)
def no_error(page: Page) -> Iterator[None]:
    """After every test, the page answers, and its output has no error, traceback or input."""
    yield
    assert exchange(page.base, request("GET", "/status")).status == 200
    for word in ("ERROR |", "Traceback", SECRET):
        assert word not in page.output
