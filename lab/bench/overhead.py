"""Compare a call of POST /v1/judge with the submission it makes, in one process."""

from __future__ import annotations

import http.client
import io
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from api.app import PREFIXES, ApiSite
from lab.bench.cases import sentence, write_photograph
from lab.bench.sides import Subject
from lab.bench.timing import alternate, timed
from service.build import build
from service.front import Front
from service.listening import Connections, listen, page_limits
from service.settings import Settings

_BOUNDARY: Final = "bench"


def overhead(subject: Subject) -> dict[str, Any]:
    """Measure both ways alternately on the small model and one JPEG of about 100 KB."""
    picture = write_photograph(subject.scratch / "hundred.jpg", 1, 800, 600).read_bytes()
    settings = Settings(
        model="demo",
        device=subject.device,
        precision_guard="off",
        converted_cache="off",
        run_dir=subject.scratch / "run",
        timeout=600.0,
        probe_interval=3600.0,
    )
    application = build(settings)
    with ExitStack() as stack:
        stack.callback(application.supervisor.stop, 5.0)
        if not application.supervisor.load():
            raise RuntimeError("the model could not be loaded")
        listener, site = listen("127.0.0.1", 0, "--port"), ApiSite(application, settings)
        front = Front(dict.fromkeys((*PREFIXES, ""), site), listener, Connections("page", page_limits()))
        front.start()
        stack.callback(front.stop)
        client = http.client.HTTPConnection("127.0.0.1", front.port, timeout=60)
        stack.callback(client.close)

        def submitted(number: int) -> float:
            return timed(lambda: application.submit(picture, sentence(number)).result())

        def called(number: int) -> float:
            return timed(_call(client, picture, sentence(number)))

        sides = {"application.submit": submitted, "POST /v1/judge": called}
        spreads = alternate(sides, 20 if subject.quick else 300, warm=10)
    cost = spreads["POST /v1/judge"].median - spreads["application.submit"].median
    return {
        "picture": f"800 × 600 JPEG, {len(picture) / 1000:.0f} KB",
        "sides": {name: spread.as_dict() for name, spread in spreads.items()},
        "cost_ms": round(1000 * cost, 3),
    }


def _call(client: http.client.HTTPConnection, picture: bytes, text: str) -> Callable[[], None]:
    body = io.BytesIO()
    for disposition, content in (
        ('name="text"', text.encode()),
        ('name="image"; filename="a.jpg"', picture),
    ):
        head = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
        body.write(head.encode() + content + b"\r\n")
    body.write(f"--{_BOUNDARY}--\r\n".encode())
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}

    def call() -> None:
        client.request("POST", "/v1/judge", body.getvalue(), headers)
        answer = client.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"POST /v1/judge answered {answer.status}")

    return call
