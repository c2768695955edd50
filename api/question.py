"""The body of POST /v1/judge, as a form or as JSON, to one question."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from api.bodies import FORM_COPIES, JSON_COPIES, Held, Limits, parse_json, received
from api.problems import Problem
from service.contract.causes import ApiCode, InputCode
from service.contract.correlation import client_id_of
from service.contract.request import MAX_TEXTS
from service.http import multipart
from service.http.bodies import Receive, Scope, values
from service.http.headers import is_json
from service.settings import Settings

FIELDS: Final = ("image", "text", "premise", "id")
FORM: Final = re.compile(rb"multipart/form-data[ \t]*;", re.IGNORECASE)
_LARGE: Final = 1 << 18  # bytes; parsing takes about a millisecond
_DATA_URL: Final = re.compile(r"data:[A-Za-z0-9.+/-]{0,64}(?:;[A-Za-z0-9.+=\"-]{1,64}){0,4};base64,")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """One picture file and 1 to MAX_TEXTS texts, not yet checked by the service."""

    image: bytes
    texts: tuple[str, ...]
    premise: str | None = None
    id: str | None = None


class Reader:
    """Reads questions within ``limits``."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits

    async def read(self, scope: Scope, receive: Receive, held: Held) -> Question:
        """Read the body. Raises Problem, Refused and ClientDisconnected."""
        if is_json(scope["headers"]):
            return await parsed(await self.whole(scope, receive, held), self._of_json)
        content_type = (values(scope, b"content-type") or [b""])[0]
        if not FORM.match(content_type):
            raise Problem(ApiCode.UNSUPPORTED_MEDIA_TYPE)
        try:
            return await self._form(content_type.decode("latin-1"), scope, receive, held)
        except multipart.FormError:
            raise Problem(ApiCode.MALFORMED, "malformed.form") from None

    async def whole(self, scope: Scope, receive: Receive, held: Held) -> bytes:
        """Return the whole body of a JSON call. Raises Problem, Refused and ClientDisconnected."""
        most = self._limits.json
        arriving = received(scope, receive, self._limits, held, most=most, copies=JSON_COPIES)
        return b"".join([piece async for piece in arriving])

    def _of_json(self, body: bytes) -> Question:
        return of_json(parse_json(body, self._limits.values))

    async def _form(self, content_type: str, scope: Scope, receive: Receive, held: Held) -> Question:
        fields: dict[str, list[_Part]] = {name: [] for name in FIELDS}
        form: multipart.Form[None] = multipart.Form(
            multipart.boundary_of(content_type),
            self._parts(fields),
            max_parts=MAX_TEXTS + len(FIELDS),
        )
        most = self._limits.form
        async for piece in received(scope, receive, self._limits, held, most=most, copies=FORM_COPIES):
            form.feed(piece)
        form.finish()
        images, premises, ids = fields["image"], fields["premise"], fields["id"]
        if not images:
            raise Problem(InputCode.NO_IMAGE)
        if len(images) > 1 or not images[0].is_file:
            raise Problem(ApiCode.INVALID_FIELD, "invalid_field.image")
        if len(premises) > 1:
            raise Problem(ApiCode.INVALID_FIELD, "invalid_field.premise")
        if len(ids) > 1:
            raise Problem(ApiCode.INVALID_ID)
        return _question(
            bytes(images[0].content),
            [one.text() for one in fields["text"]],
            premises[0].text("premise") if premises else None,
            ids[0].text() if ids else None,
        )

    def _parts(self, fields: dict[str, list[_Part]]) -> Callable[[str, str | None], _Part]:
        """Return the targets of a form's parts."""

        def part(name: str, file_name: str | None) -> _Part:
            if name not in fields:
                raise Problem(ApiCode.INVALID_FIELD)
            if name == "text" and len(fields[name]) == MAX_TEXTS:
                raise Problem(InputCode.TOO_MANY_TEXTS, values={"limit": MAX_TEXTS})
            most = self._settings.max_bytes if name == "image" else None  # others by the whole body's limit
            fields[name].append(_Part(file_name is not None, most))
            return fields[name][-1]

        return part


async def parsed(body: bytes, parse: Callable[[bytes], T]) -> T:
    """Return ``parse(body)``; a large body in a thread, as it would stop the event loop for long."""
    return parse(body) if len(body) < _LARGE else await asyncio.to_thread(parse, body)


class _Part:
    """One field of a form, kept in memory."""

    def __init__(self, is_file: bool, most: int | None) -> None:
        self.is_file = is_file
        self.content = bytearray()
        self._most = most

    def write(self, data: bytes) -> None:
        if self._most is not None and len(self.content) + len(data) > self._most:
            raise Problem(InputCode.IMAGE_BYTES_TOO_LARGE, values={"limit": self._most})
        self.content += data

    def finish(self) -> None:
        pass

    def discard(self) -> None:
        self.content.clear()

    def text(self, name: str = "text") -> str:
        try:
            return self.content.decode("utf-8")
        except UnicodeDecodeError:
            raise Problem(ApiCode.INVALID_FIELD, f"invalid_field.{name}") from None


def of_json(content: dict[str, Any]) -> Question:
    """Return the question of a JSON body. Raises Problem."""
    if not content.keys() <= set(FIELDS):
        raise Problem(ApiCode.INVALID_FIELD)
    image, text, premise, given = (content.get(name) for name in FIELDS)
    if image is None:
        raise Problem(InputCode.NO_IMAGE)
    texts = text if isinstance(text, list) else [] if text is None else [text]
    if not all(isinstance(one, str) for one in texts):
        raise Problem(ApiCode.INVALID_FIELD, "invalid_field.text")
    if premise is not None and not isinstance(premise, str):
        raise Problem(ApiCode.INVALID_FIELD, "invalid_field.premise")
    if given is not None and not isinstance(given, str):
        raise Problem(ApiCode.INVALID_ID)
    return _question(decoded(image), texts, premise, given)


def decoded(image: object) -> bytes:
    """Return the picture file in base64 or a data URL. Raises Problem."""
    if not isinstance(image, str):
        raise Problem(ApiCode.INVALID_FIELD, "invalid_field.image")
    found = _DATA_URL.match(image)
    try:
        return base64.b64decode(image[found.end() :] if found else image, validate=True)
    except (binascii.Error, ValueError):
        raise Problem(ApiCode.INVALID_FIELD, "invalid_field.image") from None


def _question(image: bytes, texts: list[str], premise: str | None, given: str | None) -> Question:
    if len(texts) > MAX_TEXTS:
        raise Problem(InputCode.TOO_MANY_TEXTS, values={"limit": MAX_TEXTS})
    if not texts:
        raise Problem(InputCode.NO_TEXT)
    if given is not None and not client_id_of(given):
        raise Problem(ApiCode.INVALID_ID)
    return Question(image, tuple(texts), premise or None, given)
