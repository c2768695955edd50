"""The quick faults, on the real service with the demo model. ``make faults`` runs all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.faults.catalogue import FAULTS
from lab.faults.fault import Fault
from lab.faults.scenes import Missing

#: The others take half a minute or more.
SHORT = ("kill",)
QUICK = [
    pytest.param(fault, id=fault.name, marks=() if fault.name in SHORT else pytest.mark.long)
    for fault in FAULTS
    if fault.quick
]


@pytest.mark.parametrize("fault", QUICK)
def test_a_guarded_instance_survives(fault: Fault, tmp_path: Path) -> None:
    # Longer limits for busy machines; the tested faults are detected without the endpoints.
    try:
        result = fault.measure(tmp_path, CHECK_TIMEOUT=20)
    except Missing as missing:
        pytest.skip(str(missing))
    assert result.wrong == ()
    assert result.restarts == int(fault.ending == "restarted")
