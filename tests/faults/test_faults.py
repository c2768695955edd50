"""The quick faults, on the real service with the demo model. ``make faults`` runs all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.faults.catalogue import FAULTS
from lab.faults.fault import Fault
from lab.faults.scenes import Missing


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.quick], ids=lambda fault: fault.name)
def test_a_guarded_instance_survives(fault: Fault, tmp_path: Path) -> None:
    # Longer limits for busy machines; the tested faults are detected without the endpoints.
    try:
        result = fault.measure(tmp_path, CHECK_TIMEOUT=20)
    except Missing as missing:
        pytest.skip(str(missing))
    assert result.wrong == ()
    assert result.restarts == int(fault.ending == "restarted")
