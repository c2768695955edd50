"""The OpenAPI document: made by FastAPI from the routes, completed with bodies, problems and headers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import Response

from api.problems import MEDIA_TYPE, STATUS
from service.contract.causes import ApiCode, Denial, InputCode, Refusal
from service.contract.request import MAX_TEXTS

TITLE: Final = "Does the picture show it?"
#: The codes that every endpoint may answer.
COMMON: Final = (ApiCode.MALFORMED, ApiCode.UNSUPPORTED_MEDIA_TYPE, Refusal.STOPPING, "error")
#: Those of a caller without a valid key or session; health needs none.
DENIED: Final = (Denial.NO_KEY, Denial.WRONG_KEY, Denial.CROSS_ORIGIN)
BODY: Final = (ApiCode.TOO_SLOW, ApiCode.TOO_LARGE, ApiCode.NO_ROOM, Refusal.CALLER_LIMIT)
#: The codes of a picture and a text that cannot be judged, or not now.
JUDGED: Final = (
    *(InputCode.NO_IMAGE, InputCode.NO_TEXT, InputCode.TOO_MANY_TEXTS, InputCode.TEXT_TOO_LONG),
    InputCode.LANGUAGE,
    *(InputCode.NOT_AN_IMAGE, InputCode.IMAGE_TOO_LARGE, InputCode.IMAGE_TRUNCATED),
    *(InputCode.IMAGE_UNREADABLE, InputCode.IMAGE_UNSUPPORTED, InputCode.TOO_SLOW_TO_READ),
    *(InputCode.IMAGE_BYTES_TOO_LARGE, InputCode.PREMISE_REFUSED, InputCode.PREMISE_NEEDED),
    *(ApiCode.INVALID_FIELD, ApiCode.INVALID_ID),
    *(Denial.TEXTS_OVER_LIMIT, Denial.RATE_LIMIT, Denial.CONCURRENT_LIMIT),
    *(Refusal.QUEUE_FULL, Refusal.TOO_LATE, Refusal.STUCK, Refusal.LOADING, Refusal.NO_INSTANCE),
    "timeout",
)

#: How a key is sent, where the service asks for one.
SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_TEXT: Final = {"type": "string", "minLength": 1}
_ID: Final = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"}
_OPTIONAL: Final = {"premise": {"type": "string"}, "id": _ID}
#: The body of POST /v1/judge.
QUESTION: Final = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image", "text"],
                "additionalProperties": False,
                "properties": {
                    "image": {"type": "string", "format": "binary", "description": "The picture file"},
                    "text": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_TEXTS},
                    **_OPTIONAL,
                },
            },
            "encoding": {"image": {"contentType": "image/*"}},
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["image", "text"],
                "additionalProperties": False,
                "properties": {
                    "image": {
                        "type": "string",
                        "description": "The picture file in base64, or as a data: URL",
                    },
                    "text": {
                        "anyOf": [
                            _TEXT,
                            {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_TEXTS},
                        ]
                    },
                    **_OPTIONAL,
                },
            }
        },
    },
}
_PROBLEM: Final = {
    "type": "object",
    "description": "An error (RFC 9457). Programs read `code`.",
    "required": ["type", "title", "status", "code", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": sorted(map(str, STATUS))},
        "detail": {"type": "string", "description": "In English or Chinese, by Accept-Language"},
        "request_id": {"type": "string"},
        "facts": {
            "type": "object",
            "description": "The values in the detail of an input error, such as limit",
            "additionalProperties": {"type": ["string", "number"]},
        },
        "columns": {
            "type": "array",
            "description": "The columns of a list that lacks one",
            "items": {"type": "string"},
        },
        "errors": {
            "type": "array",
            "description": "The texts that cannot be judged",
            "items": {
                "type": "object",
                "required": ["index", "code"],
                "properties": {"index": {"type": "integer"}, "code": {"type": "string"}},
            },
        },
    },
}


def answers(*codes: str, free: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return the error answers of a route, for ``codes`` and COMMON, as FastAPI's ``responses``. A ``free``
    route needs no key."""
    by_status: dict[int | str, list[str]] = {}
    all_codes = {str(code) for code in (*codes, *COMMON, *(() if free else DENIED))}
    for code in sorted(all_codes, key=lambda one: (STATUS[one], one)):
        by_status.setdefault(STATUS[code], []).append(code)
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": ", ".join(listed),
            "x-codes": listed,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status, listed in by_status.items()
    }


def document(routes: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of ``routes``."""
    made = get_openapi(title=TITLE, version="1", openapi_version="3.1.0", routes=routes.routes)
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = _PROBLEM
    made["components"]["securitySchemes"] = SCHEMES
    made["security"] = [{}, *({name: []} for name in SCHEMES)]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for operation in (one for path in made["paths"].values() for one in path.values()):
        if "x-codes" not in operation["responses"].get("422", {"x-codes": []}):
            del operation["responses"]["422"]  # FastAPI's own; a path segment is always a string
        for status, answer in operation["responses"].items():
            answer["headers"] = _headers(int(status))
    return made


def _headers(status: int) -> Mapping[str, Any]:
    """Return the headers of an answer that clients may rely on."""
    text = {"schema": {"type": "string"}}
    listed: dict[str, Any] = {"X-Request-ID": text}
    if status == 401:
        listed["WWW-Authenticate"] = text
    if status in (429, 503, 507):
        listed["Retry-After"] = {"schema": {"type": "integer"}}
    return listed


def codes_of(made: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Return the codes of each endpoint, ``POST /v1/judge`` → codes, from the document."""
    return {
        f"{method.upper()} {path}": [
            code for answer in operation["responses"].values() for code in answer.get("x-codes", ())
        ]
        for path, operations in made["paths"].items()
        for method, operation in operations.items()
    }


def text_of(made: Mapping[str, Any]) -> str:
    """Return the document as it is kept in docs/openapi.json."""
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def add_schema(routes: FastAPI) -> Mapping[str, Any]:
    """Add GET /openapi.json to ``routes``, which have all other documented routes already."""
    made = document(routes)
    body = text_of(made).encode()

    async def openapi(request: Request) -> Response:
        return Response(body, media_type="application/json")

    routes.add_route("/openapi.json", openapi, methods=["GET"])
    return made
