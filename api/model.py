"""GET /v1/model: what is served, and whether it answers now."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

from api import schema
from api.calls import Application
from service.contract.request import LABELS, MAX_TEXTS
from service.contract.status import Phase
from service.settings import Settings


class Model(BaseModel):
    """The served model. ``state`` is a word of /health: uninitialized, loading, loaded, failed, stopping."""

    model: str
    state: Phase
    ready: bool
    device: str
    dtype: str
    labels: list[str]
    max_texts: int
    max_chars: int
    max_bytes: int
    max_pixels: int
    timeout: float


def add_model(routes: FastAPI, application: Application, settings: Settings) -> None:
    """Add GET /v1/model to ``routes``."""

    @routes.get(
        "/v1/model", response_model=Model, summary="The model and its limits", responses=schema.answers()
    )
    async def model() -> Model:
        """Return the served model, its state and the limits of a call."""
        snapshot = application.snapshot()
        return Model(
            model=snapshot.model,
            state=snapshot.phase,
            ready=is_ready(application),
            device=snapshot.device,
            dtype=snapshot.dtype,
            labels=list(LABELS),
            max_texts=MAX_TEXTS,
            max_chars=settings.max_chars,
            max_bytes=settings.max_bytes,
            max_pixels=settings.max_pixels,
            timeout=settings.timeout,
        )


def is_ready(application: Application) -> bool:
    """Whether the next call would be accepted."""
    snapshot = application.snapshot()
    return snapshot.phase is Phase.LOADED and snapshot.activity.refusal is None
