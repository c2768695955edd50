"""/v1/batches: many pairs in one file, judged in the background."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from api import problems, schema
from api.batch_results import CsvLines, JsonLines
from api.context import context_of
from api.problems import Problem
from api.question import FORM
from batch.batches import Batches
from batch.errors import BatchRefused
from batch.records import Batch, Result
from batch.rows import Columns, ListError
from batch.uploads import Incoming
from service.contract.causes import ApiCode, BatchCode, Denial, ListCode
from service.http import multipart
from service.http.bodies import Receive, Scope, length, pieces, values
from service.http.identity import Identity

BODY_SECONDS: Final = 110.0  # to receive a file; the server itself allows a body 120 s
PAGE: Final = 500  # results read from the store at once
DECODING: Final = 3  # thumbnails made at once, and
IMPORTING: Final = 2  # files read: each takes a second or more; together fewer than there are threads
FIELDS: Final = ("image_column", "text_column", "premise_column")
FIELD_BYTES: Final = 1024
#: The types of a file that is sent without a form, and the suffix by which its form is known.
TYPES: Final = {
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl",
    "application/zip": ".zip",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
}
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_FILE: Final = {"type": "string", "format": "binary"}
_UPLOAD: Final = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Repeats of a call with the same key and file return the first one's batch",
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        }
    ],
    "requestBody": {
        "required": True,
        "description": "A list as CSV, TSV, JSON lines or XLSX, or a zip of a list and its pictures",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {"file": _FILE, **{name: {"type": "string"} for name in FIELDS}},
                }
            },
            **{kind: {"schema": _FILE} for kind in TYPES},
        },
    },
}
_ADDRESSED: Final = (
    *(ApiCode.NOT_FOUND, ApiCode.NO_ROOM),
    *(BatchCode.EXPIRED, BatchCode.BATCHES_OFF, BatchCode.NOT_HERE),
)
_UPLOADED: Final = (
    *(ApiCode.TOO_SLOW, ApiCode.TOO_LARGE, ApiCode.NO_ROOM, ApiCode.INVALID_FIELD, ApiCode.INVALID_ID),
    *(Denial.RATE_LIMIT, Denial.CONCURRENT_LIMIT, *ListCode),
    *(BatchCode.BATCHES_OFF, BatchCode.NOT_HERE, BatchCode.BATCH_LIMIT, BatchCode.IDEMPOTENCY_CONFLICT),
)

T = TypeVar("T")


class Rows(BaseModel):
    """How many rows a batch has, how many have a verdict, and how many have none and get none."""

    total: Annotated[int, Field(ge=0)]
    done: Annotated[int, Field(ge=0)]
    failed: Annotated[int, Field(ge=0)]


class Status(BaseModel):
    """The state of a batch. ``code`` says why it failed; ``seconds_left`` is estimated, null without a
    measurement; ``created`` and ``expires`` are Unix times."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    state: Literal["queued", "running", "done", "cancelled", "failed"]
    code: str | None = None
    rows: Rows
    seconds_left: float | None
    created: int
    expires: int
    form: str
    columns: list[str]


_RESULTS: Final = {
    "description": "One line for each finished row",
    "content": {
        "application/x-ndjson": {"schema": {"type": "string"}},
        "text/csv": {"schema": {"type": "string"}},
    },
}
_RESULT_PARAMETERS: Final = [
    {
        "name": "format",
        "in": "query",
        "schema": {"type": "string", "enum": ["jsonl", "csv"], "default": "jsonl"},
    },
    {
        "name": "after",
        "in": "query",
        "description": "Only rows after this position",
        "schema": {"type": "integer", "minimum": 0, "default": 0},
    },
]


def add_batches(
    routes: FastAPI,
    batches: Batches | None,
    threads: Executor,
    identity: Identity,
    root_path: str = "",
) -> None:
    """Add the paths under /v1/batches to ``routes``. ``threads`` run what reads and writes the store; without
    ``batches`` the paths answer ``not_here``."""
    served = _Served(batches, threads, identity, root_path)

    @routes.post(
        "/v1/batches",
        status_code=202,
        response_model=Status,
        summary="Judge the pairs of a file",
        responses=schema.answers(*_UPLOADED),
        openapi_extra=_UPLOAD,
    )
    async def create(request: Request) -> Response:
        """Accept a list of pictures and texts, which are judged in the background."""
        return await served.create(request.scope, request.receive)

    @routes.get(
        "/v1/batches/{batch_id}",
        response_model=Status,
        response_model_exclude_none=True,
        summary="The state of a batch",
        responses=schema.answers(*_ADDRESSED),
    )
    async def status(request: Request, batch_id: str) -> Response:
        """Return its state, the number of finished rows and the estimated time left."""
        return JSONResponse(await served.call(served.batches.status, batch_id, _owner(request.scope)))

    @routes.delete(
        "/v1/batches/{batch_id}",
        status_code=202,
        response_model=Status,
        summary="Cancel or delete a batch",
        responses={**schema.answers(*_ADDRESSED), 204: {"description": "It had ended and is deleted"}},
    )
    async def cancel(request: Request, batch_id: str) -> Response:
        """Judge no more of its rows; finished ones stay readable. Of a batch that has ended, delete pictures,
        rows and results: then the answer is 204."""
        if await served.call(served.batches.cancel, batch_id, _owner(request.scope)):
            return Response(status_code=204)
        return JSONResponse(await served.call(served.batches.status, batch_id, _owner(request.scope)), 202)

    @routes.get(
        "/v1/batches/{batch_id}/results",
        response_class=Response,
        summary="The finished rows",
        responses={**schema.answers(*_ADDRESSED, ApiCode.INVALID_FIELD), 200: _RESULTS},
        openapi_extra={"parameters": _RESULT_PARAMETERS},
    )
    async def results(request: Request, batch_id: str) -> Response:
        """Return the finished rows in the order of the list, also while the batch runs."""
        return await served.results(batch_id, request)

    @routes.get(
        "/v1/batches/{batch_id}/pictures/{row}",
        response_class=Response,
        summary="A small copy of a row's picture",
        responses={
            **schema.answers(*_ADDRESSED),
            200: {
                "description": "At most 96 pixels wide and high",
                "content": {"image/jpeg": {"schema": _FILE}},
            },
        },
    )
    async def picture(request: Request, batch_id: str, row: str) -> Response:
        """Return a JPEG."""
        position = int(row) if _NUMBER.fullmatch(row) else 0
        async with served.decoding:
            made = await served.call(served.batches.thumbnail, batch_id, _owner(request.scope), position)
        if made is None:
            raise Problem(ApiCode.NOT_FOUND, "not_found.picture")
        return Response(made, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


class _Served:
    """Batches behind HTTP."""

    def __init__(
        self, batches: Batches | None, threads: Executor, identity: Identity, root_path: str
    ) -> None:
        self._root_path = root_path
        self._batches = batches
        self._threads = threads
        self._identity = identity
        self.decoding = asyncio.Semaphore(DECODING)
        self._importing = asyncio.Semaphore(IMPORTING)

    @property
    def batches(self) -> Batches:
        """Raises Problem where there are none."""
        if self._batches is None:
            raise Problem(BatchCode.NOT_HERE)
        return self._batches

    async def call(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call ``function`` in a thread. Raises Problem."""
        return await _mapped(self._threads, functools.partial(function, *arguments, **named))

    async def create(self, scope: Scope, receive: Receive) -> Response:
        caller, batches = context_of(scope).caller, self.batches
        key = _idempotency_key(scope)
        self._identity.count(caller)
        held = ExitStack()
        try:
            receiving = batches.receiving(caller.name, length(scope) or 0, key)
            incoming = await self.call(held.enter_context, receiving)
            name, columns = await self._receive(scope, receive, incoming)
            async with self._importing:
                batch = await self.call(batches.create, incoming, name, owner=_owner(scope), columns=columns)
            status = await self.call(batches.status, batch.id, _owner(scope))
        finally:
            await self.call(held.close)  # in a thread, as it deletes a large file
        return JSONResponse(status, 202, headers={"location": f"{self._root_path}/v1/batches/{batch.id}"})

    async def _receive(self, scope: Scope, receive: Receive, incoming: Incoming) -> tuple[str, Columns]:
        """Receive the file; return its name and the columns that the form names. Raises Problem, Refused and
        ClientDisconnected."""
        sent = (values(scope, b"content-type") or [b""])[0]
        if FORM.match(sent):
            form = _Form(incoming)
            try:
                parser: multipart.Form[None] = multipart.Form(
                    multipart.boundary_of(sent.decode("latin-1")), form.part, max_parts=1 + len(FIELDS)
                )
                await self._write(receive, parser.feed)
                parser.finish()
            except multipart.FormError:
                raise Problem(ApiCode.MALFORMED, "malformed.form") from None
            return form.file_name(), form.columns()
        suffix = TYPES.get(sent.decode("latin-1").partition(";")[0].strip().lower())
        if suffix is None:
            raise Problem(ApiCode.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type.batch")
        await self._write(receive, incoming.write)
        return f"list{suffix}", Columns()

    async def _write(self, receive: Receive, write: Callable[[bytes], None]) -> None:
        """Pass the body on to ``write`` in pieces, in a thread. Raises Problem."""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in pieces(receive):
                    await self.call(write, piece)
        except TimeoutError:
            raise Problem(ApiCode.TOO_SLOW) from None

    async def results(self, batch_id: str, request: Request) -> Response:
        form = request.query_params.get("format", "jsonl")
        after = request.query_params.get("after", "0")
        if form not in ("jsonl", "csv") or not _NUMBER.fullmatch(after):
            raise Problem(ApiCode.INVALID_FIELD, "invalid_field.results")
        batch = await self.call(self.batches.find, batch_id, _owner(request.scope))
        first = await self.call(self.batches.results, batch, int(after), PAGE)
        lines: JsonLines | CsvLines = JsonLines()
        if form == "csv":
            lines = CsvLines(batch, calibrated=await self.call(self.batches.calibrated, batch))
        headers = {"content-disposition": f'attachment; filename="results-{batch.short_id}.{form}"'}
        return StreamingResponse(
            self._pages(batch, first, lines), media_type=lines.media_type, headers=headers
        )

    async def _pages(
        self, batch: Batch, page: list[Result], lines: Callable[[list[Result]], str]
    ) -> AsyncIterator[str]:
        yield await self.call(lines, page)
        while page:
            page = await self.call(self.batches.results, batch, page[-1].position, PAGE)
            yield await self.call(lines, page)


class _Form:
    """The parts of an upload's form: the file goes to ``incoming``, the rest is kept in memory."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._name: str | None = None
        self._fields: dict[str, bytearray] = {}

    def part(self, name: str, file_name: str | None) -> multipart.Target[None]:
        if name == "file" and file_name is not None and self._name is None:
            self._name = file_name
            return _Target(self._incoming.write)
        if name not in FIELDS or name in self._fields:
            raise Problem(ApiCode.INVALID_FIELD, "invalid_field.batch")
        kept = self._fields[name] = bytearray()

        def keep(data: bytes) -> None:
            if len(kept) + len(data) > FIELD_BYTES:
                raise Problem(ApiCode.INVALID_FIELD, "invalid_field.batch")
            kept.extend(data)

        return _Target(keep)

    def file_name(self) -> str:
        """Raises Problem."""
        if self._name is None:
            raise Problem(ApiCode.INVALID_FIELD, "invalid_field.batch")
        return self._name

    def columns(self) -> Columns:
        """Raises Problem."""
        try:
            image, text, premise = (self._fields.get(name, b"").decode() or None for name in FIELDS)
        except UnicodeDecodeError:
            raise Problem(ApiCode.INVALID_FIELD, "invalid_field.batch") from None
        return Columns(image=image, text=text, premise=premise)


def _owner(scope: Scope) -> str:
    """Return the name of the caller's API key, "" without one."""
    key = context_of(scope).caller.key
    return "" if key is None else key.name


def _idempotency_key(scope: Scope) -> str:
    """Return the key, "" without one. Raises Problem."""
    sent = values(scope, b"idempotency-key")
    if not sent:
        return ""
    key = sent[0].decode("latin-1")
    if len(sent) > 1 or not _KEY.fullmatch(key):
        raise Problem(ApiCode.INVALID_ID, "invalid_id.idempotency")
    return key


async def _mapped(threads: Executor, function: Callable[[], T]) -> T:
    """Call ``function`` in a thread. Raises Problem for what the batches refuse."""
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, function)
    except BatchRefused as error:
        raise problems.of_batch(error) from None
    except ListError as error:
        raise problems.of_list(error) from None


class _Target:
    """A part of a form."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write

    def finish(self) -> None:
        pass

    def discard(self) -> None:
        pass
