"""Reads the calibration in the model's folder and checks that it was measured with the weights there."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Final

from service.contract import calibration
from service.contract.calibration import CalibrationError
from service.contract.causes import CalibrationCode
from service.contract.log_line import fields
from service.contract.protocols import CancelPoint, Listed
from service.contract.status import CalibrationState
from service.hub.model_folder import weights

_BLOCK: Final = 4 << 20  # bytes hashed between cancel points
_log = logging.getLogger(__name__)


def read(folder: Path, listed: Listed, cancel_point: CancelPoint) -> CalibrationState:
    """Return the state of the calibration in ``folder``, and log it unless there is none.

    The weights are hashed only if there is a calibration and ``listed`` does not know their checksum. A file
    that cannot be used is ignored. Raises what ``cancel_point`` raises.
    """
    try:
        found = calibration.read(folder / calibration.FILE)
        if found.weights_sha256 != _checksum(weights(folder), listed, cancel_point):
            raise CalibrationError("It was measured with other weights.", CalibrationCode.OTHER_WEIGHTS)
    except FileNotFoundError:
        return CalibrationState()
    except CalibrationError as error:
        _log.warning("CALIBRATION | OUTCOME=ignored%s", fields(reason=error.code, msg=error))
        return CalibrationState("ignored", error.code)
    values = fields(temperature=found.temperature, accept=found.accept, review=found.review)
    _log.info("CALIBRATION | OUTCOME=used%s", values)
    return CalibrationState("used", calibration=found)


def _checksum(path: Path, listed: Listed, cancel_point: CancelPoint) -> str:
    """Return the SHA-256 of the weights. Raises CalibrationError, and what ``cancel_point`` raises."""
    if (known := listed(path)) is not None:
        return known
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                cancel_point()
                digest.update(block)
    except OSError as error:
        raise CalibrationError("The weights cannot be read.", CalibrationCode.UNREADABLE) from error
    return digest.hexdigest()
