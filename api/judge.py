"""POST /v1/judge: one picture and up to 32 texts."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api import schema
from api.calls import Application, Calls, Judged
from api.context import Context, context_of
from api.question import Reader
from service.contract.calibration import Decision

Probability = Annotated[float, Field(ge=0, le=1)]


class Scores(BaseModel):
    """The probabilities of the three labels."""

    Yes: Probability
    No: Probability
    Maybe: Probability


class Result(BaseModel):
    """The verdict on one text. ``calibrated`` has the scores at the temperature of the model's calibration,
    ``decision`` compares the highest of them with its thresholds; both are absent without a calibration."""

    label: Literal["Yes", "No", "Maybe"]
    score: Probability
    scores: Scores
    reason: None
    calibrated: Scores | SkipJsonSchema[None] = None
    decision: Decision | SkipJsonSchema[None] = None


class Judgement(BaseModel):
    """The verdicts, in the order of the texts."""

    id: str | None
    request_id: str
    model: str
    results: list[Result]
    seconds: Annotated[float, Field(ge=0)]


def add_judge(routes: FastAPI, calls: Calls, application: Application) -> None:
    """Add POST /v1/judge to ``routes``."""
    reader = Reader(calls.settings, calls.limits)

    @routes.post(
        "/v1/judge",
        response_model=Judgement,
        summary="Judge texts about one picture",
        responses=schema.answers(*schema.BODY, *schema.JUDGED),
        openapi_extra={"requestBody": schema.QUESTION},
    )
    async def judge(request: Request) -> Response:
        """Judge whether the picture shows what each text says: Yes, No or Maybe."""
        context = context_of(request.scope)
        with calls.limits.held(request.scope) as held:
            question = await reader.read(request.scope, request.receive, held)
            arrived = context.read()
            judged = await calls.judge([question], request.receive, arrived=arrived, context=context)
        now = time.monotonic()
        content = {
            "id": question.id,
            "request_id": context.request_id,
            "model": application.snapshot().model,
            "results": [verdict.as_dict() for verdict in judged.verdicts],
            "seconds": round(now - context.arrived, 4),
        }
        return JSONResponse(content, headers={"server-timing": timing(context, arrived, judged)})


def timing(context: Context, read: float, judged: Judged) -> str:
    """Return a Server-Timing header's value, in milliseconds: the body, decoding and checks, the queue, the
    computation, the whole call. ``read``: when the body was complete, in monotonic seconds."""
    now = time.monotonic()
    stages = {
        "body": read - context.arrived,
        "prepare": max(0.0, now - read - judged.waited - judged.computed),
        "queue": judged.waited,
        "compute": judged.computed,
        "total": now - context.arrived,
    }
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in stages.items())
