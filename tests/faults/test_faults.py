"""The quick faults, on the real service with the demo model. All of them: ``make faults``."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.faults.catalogue import FAULTS
from lab.faults.fault import Fault
from lab.faults.scenes import Missing


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.quick], ids=lambda fault: fault.name)
def test_a_guarded_instance_survives(fault: Fault, tmp_path: Path) -> None:
    # A slow machine may answer late; what is looked for here is seen without a look at the endpoints.
    try:
        result = fault.measure(tmp_path, CHECK_TIMEOUT=20)
    except Missing as missing:
        pytest.skip(str(missing))
    assert result.wrong == ()
    assert result.restarts == int(fault.ending == "restarted")
