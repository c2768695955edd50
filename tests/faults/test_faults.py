"""The quick faults, on the real service with the demo model. All of them: ``make faults``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.catalogue import FAULTS, Fault
from tests.faults.service import Service
from tests.guardian.harness import stat_of


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.quick], ids=lambda fault: fault.name)
def test_a_guarded_instance_survives(fault: Fault, tmp_path: Path) -> None:
    # A slow machine may answer late; what is looked for here is seen without a look at the endpoints.
    with Service(tmp_path / "run", "demo", CHECK_TIMEOUT=20) as service:
        service.start()
        result = fault.run(service)
        assert result.restarts == int(fault.restart)
        if not fault.restart:
            assert result.lost == 0
        pid = service.pid
        assert service.command("stop").returncode == 0
        assert stat_of(pid)[:1] in ([], ["Z"])
