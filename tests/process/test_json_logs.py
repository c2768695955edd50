"""--log-format json in a real process: every line is an object, and the doctor reads the log."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

from lab.instances.instance import ROOT, Instance

SECRET = "xylophonist"


def test_a_process_writes_json_that_the_doctor_reads(
    start: Callable[..., Instance], red_circle: bytes
) -> None:
    service = start("--model", "demo", "--log-format", "json", "--timeout", "60")
    service.wait_healthy()
    assert service.judge(red_circle, SECRET)["reason"] is None
    assert service.terminate() == 0
    records = [json.loads(line) for line in service.log.splitlines()]
    events = [one["event"] for one in records]
    assert events.count("REQUEST_START") == events.count("REQUEST_END") == 1
    assert {"STARTED", "MODEL_LOADED", "LISTENING", "ENDED"} <= set(events)
    assert SECRET not in service.log
    console = [line for line in service.output.splitlines() if line.startswith('{"time": ')]
    assert [json.loads(line) for line in console] == records
    command = [sys.executable, "-m", "doctor", str(service.run_dir), "--json", "--offline"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    report = json.loads(done.stdout)
    assert (done.returncode, report["findings"]) == (0, [])
    assert (report["requests"], report["lines"]) == (1, len(records))
