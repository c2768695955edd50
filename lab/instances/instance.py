"""Drive a real process of the service: command line, ports, signals, logs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from lab import ROOT
from lab.instances.ports import free_ports

# Bounds for a failed run on a busy machine.
START_SECONDS = 480.0
EXIT_SECONDS = 300.0


class Instance:
    """One process and its ports. Use it as a context manager, which kills the process at the end."""

    def __init__(
        self,
        run_dir: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        interpreter: Sequence[str] = (),
        program: str = "web_app.py",
        ports: tuple[int, int] | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.port, self.health_port = ports or tuple(free_ports(2))
        self.output_path = run_dir / "output.txt"
        run_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *interpreter, program, *arguments]
        variables = {
            "OFA_RUN_DIR": str(run_dir),
            "OFA_HOST": "127.0.0.1",
            "OFA_HEALTH_HOST": "127.0.0.1",
            "OFA_PORT": str(self.port),
            "OFA_HEALTH_PORT": str(self.health_port),
        }
        with self.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **variables, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Instance:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(EXIT_SECONDS)

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def health(self) -> str:
        return f"http://127.0.0.1:{self.health_port}"

    @property
    def output(self) -> str:
        """Its console output so far."""
        return self.output_path.read_text(encoding="utf-8", errors="replace")

    @property
    def log(self) -> str:
        """web_app.log so far."""
        path = self.run_dir / "web_app.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @property
    def ops_password(self) -> str:
        """The generated password of the operations tab."""
        path = self.run_dir / "ops_password"
        self.wait_for("the operations tab", path.exists)
        return path.read_text(encoding="utf-8").strip()

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body from the health API; status 0 without an answer."""
        try:
            with urllib.request.urlopen(self.health + path, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except (OSError, HTTPException):  # an import may hold the GIL for long
            return 0, ""

    def judge(
        self, picture: bytes, text: str, premise: str | None = None, caller: str = ""
    ) -> dict[str, Any]:
        """Send one request through the page's API: upload, call, read the answer. ``caller`` is the address
        that a trusted proxy would name."""
        boundary = "--a-boundary-of-the-tests"
        head = (
            'Content-Disposition: form-data; name="files"; filename="picture.png"\r\nContent-Type: image/png'
        )
        body = f"--{boundary}\r\n{head}\r\n\r\n".encode() + picture + f"\r\n--{boundary}--\r\n".encode()
        (path,) = self._post("/gradio_api/upload", body, f"multipart/form-data; boundary={boundary}", caller)
        image = {"path": path, "meta": {"_type": "gradio.FileData"}}
        question = json.dumps({"data": [image, text, premise]}).encode()
        event = self._post("/gradio_api/call/judge", question, "application/json", caller)["event_id"]
        with urllib.request.urlopen(f"{self.page}/gradio_api/call/judge/{event}", timeout=240) as stream:
            lines = stream.read().decode().splitlines()
        assert "event: complete" in lines, lines
        (answer,) = json.loads(lines[lines.index("event: complete") + 1].removeprefix("data: "))
        return dict(answer)

    def _post(self, path: str, body: bytes, content_type: str, caller: str) -> Any:
        headers = {"Content-Type": content_type, **({"X-Forwarded-For": caller} if caller else {})}
        request = urllib.request.Request(self.page + path, body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def wait_for(self, what: str, happened: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Wait until ``happened()``. Raises AssertionError when the process exits or on timeout."""
        give_up = time.monotonic() + seconds
        while not happened():
            code = self.process.poll()
            assert code is None, f"exited with {code} while waiting for {what}:\n{self.output}"
            assert time.monotonic() < give_up, f"timeout while waiting for {what}:\n{self.output}"
            time.sleep(0.05)

    def wait_healthy(self) -> None:
        self.wait_for("health", lambda: self.get("/health/simple")[0] == 200)

    def terminate(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.terminate()
        return self.exit_code()

    def exit_code(self) -> int:
        """Wait for the process to exit and return its exit code."""
        try:
            return self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not exit:\n{self.output}") from None
