"""A real Prometheus on loopback, with the shipped configuration."""

from __future__ import annotations

import json
import math
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from lab.instances.instance import EXIT_SECONDS, START_SECONDS
from lab.instances.ports import free_ports

SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"


class Prometheus:
    """A running server and its HTTP API."""

    def __init__(self, base: str, process: subprocess.Popen[bytes], output: Path) -> None:
        self._base = base
        self._process = process
        self._output = output

    def api(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer; AssertionError with Prometheus' message for an invalid query."""
        address = f"{self._base}/api/v1/{path}?{urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def values(self, query: str) -> list[float]:
        """Return the finite values of a query now."""
        values = (float(one["value"][1]) for one in self.api("query", query=query)["result"])
        return [value for value in values if math.isfinite(value)]

    def wait_for(self, what: str, happened: Callable[[], bool]) -> None:
        give_up = time.monotonic() + START_SECONDS
        while not happened():
            output = self._output.read_text(encoding="utf-8", errors="replace")
            assert self._process.poll() is None, f"exited while waiting for {what}:\n{output}"
            assert time.monotonic() < give_up, f"timed out waiting for {what}:\n{output}"
            time.sleep(0.2)

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._base}/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False


@contextmanager
def prometheus(folder: Path, targets: Sequence[str]) -> Iterator[Prometheus]:
    """Run Prometheus with the shipped configuration over ``targets``, scraping every second."""
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(SHIPPED / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": list(targets)}]
    file, output = folder / "prometheus.yml", folder / "prometheus.txt"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    (port,) = free_ports(1)
    command = [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with output.open("wb") as stream:
        process = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT)
    try:
        server = Prometheus(f"http://127.0.0.1:{port}", process, output)
        server.wait_for("Prometheus", server.ready)
        yield server
    finally:
        process.kill()
        process.wait(EXIT_SECONDS)
