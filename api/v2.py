"""The Open Inference Protocol v2, for its clients: health, metadata, and infer over BYTES tensors.

Inputs: ``image`` BYTES [1] or [n], ``text`` BYTES [n], optionally ``premise`` BYTES [1]. Outputs: ``label``
BYTES [n], ``scores`` FP32 [n, 3] for Yes, No, Maybe; with a calibration of the model also ``calibrated`` FP32
[n, 3] and ``decision`` BYTES [n]. Pictures are raw in the binary tensor extension, base64 in JSON.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api import schema
from api.calls import Application, Calls
from api.context import context_of
from api.judge import timing
from api.model import is_ready
from api.problems import Problem
from api.question import Question, Reader, decoded, parsed
from api.tensors import HEADER_LENGTH, Input, Output, encoded, inputs, invalid, parameter, split
from service.contract.causes import ApiCode, InputCode
from service.contract.correlation import client_id_of
from service.contract.request import LABELS, MAX_TEXTS, Verdict
from service.http.bodies import Scope, values
from service.http.headers import by_name, is_json

INPUTS: Final = ("image", "text", "premise")
OUTPUTS: Final = ("label", "scores")
CALIBRATED: Final = ("calibrated", "decision")  # outputs while the model has a calibration
_METADATA: Final = {
    "platform": "pytorch",
    "versions": ["1"],
    "inputs": [
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
        {"name": "text", "datatype": "BYTES", "shape": [-1]},
        {"name": "premise", "datatype": "BYTES", "shape": [1]},
    ],
}
_OUTPUTS: Final = {
    name: {"name": name, "datatype": datatype, "shape": shape}
    for name, datatype, shape in (
        ("label", "BYTES", [-1]),
        ("scores", "FP32", [-1, len(LABELS)]),
        ("calibrated", "FP32", [-1, len(LABELS)]),
        ("decision", "BYTES", [-1]),
    )
}
_EXTENSIONS: Final = ["binary_tensor_data"]
_TENSORS: Final = {
    "requestBody": {
        "required": True,
        "description": "An inference request, with raw tensors after the JSON if "
        "Inference-Header-Content-Length is sent",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {"type": "array", "items": {"type": "object"}},
                        "outputs": {"type": "array", "items": {"type": "object"}},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def add_v2(routes: FastAPI, calls: Calls, application: Application) -> None:
    """Add the paths under /v2 to ``routes``."""
    reader = Reader(calls.settings, calls.limits)
    not_found = schema.answers(ApiCode.NOT_FOUND)

    def outputs() -> tuple[str, ...]:
        return OUTPUTS + (CALIBRATED if application.snapshot().calibration.calibration else ())

    def check_model(model: str) -> None:
        if model != application.snapshot().model:
            raise Problem(ApiCode.NOT_FOUND, "not_found.model")

    @routes.get("/v2", summary="The server", responses=schema.answers())
    async def server() -> dict[str, Any]:
        return {"name": "visual-entailment", "version": "1", "extensions": _EXTENSIONS}

    @routes.get("/v2/health/live", summary="Whether the server runs", responses=schema.answers(free=True))
    async def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/v2/health/ready", summary="Whether a call would be accepted", responses=_unready())
    async def ready() -> Response:
        return _ready(application)

    @routes.get("/v2/models/{model:path}/ready", summary="The same for the model", responses=_unready(True))
    async def model_ready(model: str) -> Response:
        check_model(model)
        return _ready(application)

    @routes.get("/v2/models/{model:path}", summary="The model's tensors", responses=not_found)
    async def metadata(model: str) -> dict[str, Any]:
        check_model(model)
        return {"name": model, **_METADATA, "outputs": [_OUTPUTS[name] for name in outputs()]}

    @routes.post(
        "/v2/models/{model:path}/infer",
        summary="Judge pictures and texts",
        responses=schema.answers(*schema.BODY, *schema.JUDGED, ApiCode.NOT_FOUND),
        openapi_extra=_TENSORS,
    )
    async def infer(request: Request, model: str) -> Response:
        check_model(model)
        context = context_of(request.scope)
        _check_type(request.scope)
        length = by_name(request.scope).get(HEADER_LENGTH)
        with calls.limits.held(request.scope) as held:
            body = await reader.whole(request.scope, request.receive, held)
            arrived = context.read()
            call = await parsed(body, functools.partial(_read, length, calls.limits.values, outputs()))
            del body
            judged = await calls.judge(call.questions, request.receive, arrived=arrived, context=context)
        head = {"model_name": model, "model_version": "1", "id": call.id or context.request_id}
        headers = {"server-timing": timing(context, arrived, judged)}
        return _answer(head, judged.verdicts, call.wanted, headers)


def _check_type(scope: Scope) -> None:
    """Raise Problem unless the body is JSON or raw; the protocol's clients may name no type.

    A page of another site cannot send these types without a CORS preflight, nor a body without a type and
    without Origin."""
    kind = values(scope, b"content-type")
    untyped = not kind and not values(scope, b"origin")
    if not (is_json(scope["headers"]) or kind == [b"application/octet-stream"] or untyped):
        raise Problem(ApiCode.UNSUPPORTED_MEDIA_TYPE)


class _Call(NamedTuple):
    """An inference request. ``wanted``: its outputs, and whether each is sent raw."""

    id: str | None
    wanted: list[tuple[str, bool]]
    questions: list[Question]


def _read(header_length: str | None, most_values: int, known: Sequence[str], body: bytes) -> _Call:
    """Parse a request for a model with the outputs ``known``. Raises Problem."""
    content, raw = split(body, header_length, most_values)
    return _Call(_id_of(content), _outputs(content, known), _questions(inputs(content, raw, INPUTS)))


def _unready(of_model: bool = False) -> dict[int | str, dict[str, Any]]:
    found = schema.answers(*([ApiCode.NOT_FOUND] if of_model else []), free=not of_model)
    content = {**found[503]["content"], "application/json": {"schema": {"type": "object"}}}
    return {**found, 503: {**found[503], "description": "not ready", "content": content}}


def _ready(application: Application) -> Response:
    ready = is_ready(application)
    return JSONResponse({"ready": ready}, 200 if ready else 503)


def _id_of(content: dict[str, Any]) -> str | None:
    given = content.get("id")
    if given in (None, ""):  # clients send an empty one
        return None
    if not isinstance(given, str) or not client_id_of(given):
        raise Problem(ApiCode.INVALID_ID)
    return given


def _outputs(content: dict[str, Any], known: Sequence[str]) -> list[tuple[str, bool]]:
    """Return the wanted outputs, and whether each is sent raw. Raises Problem."""
    default = parameter(content, "binary_data_output") is True
    listed = content.get("outputs")
    if listed is None:
        return [(name, default) for name in known]
    if not isinstance(listed, list) or not 1 <= len(listed) <= len(known):
        raise invalid()
    wanted: list[tuple[str, bool]] = []
    for one in listed:
        if not isinstance(one, dict) or one.get("name") not in known:
            raise invalid()
        raw = parameter(one, "binary_data")
        wanted.append((one["name"], default if raw is None else raw is True))
    return wanted


def _questions(found: dict[str, Input]) -> list[Question]:
    """Return one question for one picture, else one for each picture. Raises Problem."""
    if "image" not in found:
        raise Problem(InputCode.NO_IMAGE)
    if "text" not in found or not found["text"].elements:
        raise Problem(InputCode.NO_TEXT)
    texts = _decoded(found["text"])
    if len(texts) > MAX_TEXTS:
        raise Problem(InputCode.TOO_MANY_TEXTS, values={"limit": MAX_TEXTS})
    premise = None
    if "premise" in found:
        if len(found["premise"].elements) != 1:
            raise invalid()
        premise = _decoded(found["premise"])[0] or None
    image = found["image"]
    if len(image.elements) not in (1, len(texts)):
        raise invalid()
    pictures = list(image.elements) if image.raw else [decoded(_text(one)) for one in image.elements]
    if len(pictures) == 1:
        return [Question(pictures[0], tuple(texts), premise)]
    return [Question(picture, (text,), premise) for picture, text in zip(pictures, texts, strict=True)]


def _decoded(tensor: Input) -> list[str]:
    return [_text(one) for one in tensor.elements]


def _text(element: bytes) -> str:
    try:
        return element.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise Problem(ApiCode.INVALID_FIELD, "invalid_field.text") from None


def _answer(
    head: dict[str, Any], verdicts: Sequence[Verdict], wanted: list[tuple[str, bool]], headers: dict[str, str]
) -> Response:
    made = {
        "label": _words("label", [one.label for one in verdicts]),
        "scores": _probabilities("scores", [one.scores or {} for one in verdicts]),
    }
    calibrated = [one.calibrated for one in verdicts if one.calibrated is not None]
    if len(calibrated) == len(verdicts):  # not if the model was reloaded without its calibration meanwhile
        made["calibrated"] = _probabilities("calibrated", calibrated)
        made["decision"] = _words("decision", [one.decision or "" for one in verdicts])
    parts = [encoded(made[name], raw) for name, raw in wanted if name in made]
    text = json.dumps({**head, "outputs": [described for described, _ in parts]}).encode()
    if not any(raw for _, raw in wanted):
        return Response(text, media_type="application/json", headers=headers)
    headers[HEADER_LENGTH] = str(len(text))
    body = text + b"".join(data for _, data in parts)
    return Response(body, media_type="application/octet-stream", headers=headers)


def _words(name: str, words: Sequence[str]) -> Output:
    return Output(name, "BYTES", [len(words)], [word.encode() for word in words])


def _probabilities(name: str, scores: Sequence[Mapping[str, float]]) -> Output:
    flat = [by_label[label] for by_label in scores for label in LABELS]
    return Output(name, "FP32", [len(scores), len(LABELS)], flat)
