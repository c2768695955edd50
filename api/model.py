"""GET /v1/model: what is served, and whether it answers now."""

from __future__ import annotations

from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import SkipJsonSchema

from api import schema
from api.calls import Application
from service.contract.causes import CalibrationCode, Refusal
from service.contract.request import LABELS, MAX_TEXTS
from service.contract.status import CalibrationState, Limits, Phase, Remote
from service.settings import Settings


class Calibration(BaseModel):
    """The model's calibration file. ``code`` says why it is ignored; a used one has the three numbers."""

    state: Literal["used", "ignored", "none"]
    code: CalibrationCode | SkipJsonSchema[None] = None
    temperature: float | SkipJsonSchema[None] = None
    accept: float | SkipJsonSchema[None] = None
    review: float | SkipJsonSchema[None] = None


class Model(BaseModel):
    """The served model. ``state`` is a word of /health: uninitialized, loading, loaded, failed, stopping.
    ``refusal`` is what the next call would be refused with."""

    model: str
    state: Phase
    ready: bool
    refusal: Refusal | SkipJsonSchema[None] = None
    device: str
    dtype: str
    labels: list[str]
    max_texts: int
    max_chars: int
    max_bytes: int
    max_pixels: int
    timeout: float
    calibration: Calibration


def add_model(routes: FastAPI, application: Application, settings: Settings) -> None:
    """Add GET /v1/model to ``routes``."""

    @routes.get(
        "/v1/model",
        response_model=Model,
        response_model_exclude_none=True,
        summary="The model and its limits",
        responses=schema.answers(),
    )
    async def model() -> Model:
        """Return the served model, its state and the limits of a call."""
        snapshot = application.snapshot()
        engine = snapshot.remote or Remote("")
        limits = engine.limits or Limits(
            MAX_TEXTS, settings.max_chars, settings.max_bytes, settings.max_pixels, settings.timeout
        )
        return Model(
            model=snapshot.model,
            state=snapshot.phase if snapshot.remote is None else engine.phase,
            ready=is_ready(application),
            refusal=snapshot.activity.refusal,
            device=snapshot.device,
            dtype=snapshot.dtype,
            labels=list(LABELS),
            max_texts=min(MAX_TEXTS, limits.max_texts),
            max_chars=min(settings.max_chars, limits.max_chars),
            max_bytes=min(settings.max_bytes, limits.max_bytes),
            max_pixels=limits.max_pixels,  # decoded by the engine alone
            timeout=min(settings.timeout, limits.timeout),
            calibration=_calibration(snapshot.calibration),
        )


def _calibration(known: CalibrationState) -> Calibration:
    used = known.calibration
    if used is None:
        return Calibration(state=known.state, code=known.code)
    return Calibration(
        state=known.state, temperature=used.temperature, accept=used.accept, review=used.review
    )


def is_ready(application: Application) -> bool:
    """Whether the next call would be accepted."""
    snapshot = application.snapshot()
    return snapshot.phase is Phase.LOADED and snapshot.activity.refusal is None
