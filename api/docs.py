"""GET /docs: the API's documentation, one page without scripts, made from the OpenAPI document."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from api.problems import STATUS, TEXTS
from service.http.headers import by_name
from service.http.language import language_of
from service.texts import Language

STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border:1px solid #8888;padding:.3rem .5rem;"
    "text-align:left;vertical-align:top}code{font-family:ui-monospace,monospace}"
    ":target{outline:2px solid}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#eee}a{color:#9cf}}"
)
_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CSP: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_WORDS: Final[Mapping[Language, Mapping[str, str]]] = {
    "en": {"body": "Body", "answers": "Answers", "codes": "Codes", "required": "required"},
    "zh": {"body": "请求体", "answers": "响应", "codes": "代码", "required": "必填"},
}


def add_docs(routes: FastAPI, made: Mapping[str, Any]) -> None:
    """Add GET /docs to ``routes``, for the OpenAPI document ``made``."""
    pages = {language: page(made, language) for language in TEXTS}

    async def docs(request: Request) -> Response:
        language = language_of(by_name(request.scope).get("accept-language"))
        headers = {"content-security-policy": CSP, "content-language": language, "vary": "accept-language"}
        return Response(pages[language], media_type="text/html", headers=headers)

    routes.add_route("/docs", docs, methods=["GET"])


def page(made: Mapping[str, Any], language: Language) -> str:
    """Return the HTML."""
    title, words = escape(made["info"]["title"]), _WORDS[language]
    lines = [
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>",
        '<p><a href="openapi.json">openapi.json</a></p>',
    ]
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            lines += _operation(made, method, path, operation, words)
    lines.append(f"<h2>{words['codes']}</h2><table>")
    for code, status in sorted(STATUS.items(), key=lambda item: item[1]):
        text = escape(TEXTS[language][str(code)])
        lines.append(f'<tr id="{code}"><td>{status}<td><code>{code}</code><td>{text}</tr>')
    lines.append("</table></body></html>")
    return "\n".join(lines)


def _operation(
    made: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any], words: Mapping[str, str]
) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
    yield f"<p>{escape(operation.get('summary', ''))}</p>"
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<h3>{words['body']}: <code>{escape(kind)}</code></h3>"
        yield from _properties(made, content["schema"], words)
    yield f"<h3>{words['answers']}</h3><table>"
    for status, answer in operation["responses"].items():
        codes = answer.get("x-codes", ())
        linked = ", ".join(f'<a href="#{code}">{code}</a>' for code in codes)
        yield f"<tr><td>{status}<td>{linked or escape(answer['description'])}</tr>"
    yield "</table>"
    for content in operation["responses"].get("200", {}).get("content", {}).values():
        yield from _properties(made, content.get("schema", {}), words)


def _properties(
    made: Mapping[str, Any], schema: Mapping[str, Any], words: Mapping[str, str]
) -> Iterator[str]:
    schema = _resolved(made, schema)
    if not schema.get("properties"):
        return
    required = schema.get("required", ())
    yield "<table>"
    for name, about in schema["properties"].items():
        need = words["required"] if name in required else ""
        described = escape(about.get("description", ""))
        kind = escape(_type(made, about))
        yield f"<tr><td><code>{escape(name)}</code><td>{kind}<td>{need}<td>{described}</tr>"
    yield "</table>"


def _type(made: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Return a schema's type in a few words."""
    about = _resolved(made, about)
    if "anyOf" in about:
        return " | ".join(_type(made, one) for one in about["anyOf"])
    if about.get("type") == "array":
        return f"[{_type(made, about.get('items', {}))}]"
    if "enum" in about or "const" in about:
        return " | ".join(map(str, about.get("enum") or [about["const"]]))
    if about.get("properties"):
        return "{" + ", ".join(about["properties"]) + "}"
    return str(about.get("type", "any"))


def _resolved(made: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return made["components"]["schemas"][name] if name else schema
