"""The calls about pictures: uploading one, how far an upload is, and looking at one that was uploaded.

They take the place of Gradio's and answer as those do, so that its page and its clients work; Gradio's own
keep form fields in memory, decode them by any character set a caller names, and have no budget.
"""

from __future__ import annotations

import asyncio
import json
import logging
import mimetypes
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from page import multipart
from page.bodies import HungUp, Receive, Refused, Scope, Send, length, memory_for, pieces
from page.log_limit import LogLimit
from page.shares import NoneLeft, Shares, ShareUsed
from page.uploads import Uploads
from page.words import Language, language_of, say
from service.callers import Callers

if TYPE_CHECKING:
    from starlette.responses import Response

log = logging.getLogger(__name__)

UPLOAD: Final = "/gradio_api/upload"
PROGRESS: Final = "/gradio_api/upload_progress"
FILE: Final = "/gradio_api/file="

THREADS: Final = 4  # that read forms and write files: neither may stand in the way of the event loop
UPLOAD_MEMORY: Final = 512 << 10  # what one holds at most: a piece here and the next in the server's buffer
RETRY_SECONDS: Final = 60
LOG_SECONDS: Final = 60.0  # between two lines on refused uploads

UPLOAD_ID: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)
UNKNOWN_SECONDS: Final = 3.0  # a browser asks for the progress before it uploads
LOOK_SECONDS: Final = 0.1
HEARTBEAT_LOOKS: Final = 150
TRACKED: Final = 256  # uploads whose progress can be asked for

# Shown in a browser; anything else that was uploaded is handed out as a download.
SHOWN: Final = frozenset(
    f"image/{kind}" for kind in ("jpeg", "png", "gif", "webp", "bmp", "x-ms-bmp", "tiff", "avif")
)


class Receiving:
    """An ASGI app over the uploads. ``memory`` are the bytes that bodies being received may hold."""

    def __init__(self, uploads: Uploads, callers: Callers, memory: Shares) -> None:
        self._uploads = uploads
        self._callers = callers
        self._memory = memory
        self._progress = Progress()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="page-receiving")
        self._refusals = LogLimit(LOG_SECONDS)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def serves(self, path: str) -> bool:
        return path in (UPLOAD, PROGRESS) or path.startswith(FILE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Refused and HungUp."""
        if scope["path"] == UPLOAD:
            await self._upload(scope, receive, send)
        elif scope["path"] == PROGRESS:
            await self._tell_progress(scope, receive, send)
        else:
            await self._show(scope, receive, send)

    # ---- uploading -----------------------------------------------------------------------------------------

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import JSONResponse

        headers = _headers(scope)
        caller = self._callers.of((scope.get("client") or ("",))[0], headers)
        language = language_of(headers.get("accept-language"))
        with memory_for(self._memory, caller, UPLOAD_MEMORY), self._tracked(_upload_id(scope)) as state:
            try:
                paths = await self._receive(headers.get("content-type", ""), caller, receive, state)
            except multipart.FormFault as fault:
                raise Refused(400, str(fault)) from None
            except ShareUsed:
                raise self._no_room(429, "share", caller, language) from None
            except NoneLeft:
                raise self._no_room(507, "no_room", caller, language) from None
            except HungUp:
                log.info("HUNG_UP | PATH=%s | LENGTH=%d", UPLOAD, length(scope) or 0)
                raise
        await JSONResponse([str(path) for path in paths])(scope, receive, send)

    async def _receive(self, content_type: str, caller: str, receive: Receive, state: State) -> list[Path]:
        """The paths of the files in the form that is being received, all of them or none."""
        form = multipart.Form(
            multipart.boundary_of(content_type), lambda name: self._uploads.create(caller, name)
        )
        state.form = form
        loop = asyncio.get_running_loop()
        try:
            async for piece in pieces(receive):
                await loop.run_in_executor(self._threads, form.feed, piece)
            return form.finish()
        except BaseException:
            form.discard()
            raise

    def _no_room(self, status: int, reason: str, caller: str, language: Language) -> Refused:
        if self._refusals.allows():
            log.warning(
                "UPLOAD_REFUSED | REASON=%s | FROM=%s | MORE=%d", reason, caller, self._refusals.suppressed()
            )
        return Refused(status, say(language, f"upload.{reason}"), retry_after=RETRY_SECONDS)

    # ---- how far it is -------------------------------------------------------------------------------------

    @contextmanager
    def _tracked(self, upload_id: str | None) -> Iterator[State]:
        state = self._progress.begin(upload_id)
        try:
            yield state
        finally:
            state.ended = True

    async def _tell_progress(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import StreamingResponse

        upload_id = _upload_id(scope)
        if upload_id is None:
            raise Refused(400, "Say which upload: ?upload_id=…")
        state = await self._progress.find(upload_id)
        if state is None:
            raise Refused(404, "There is no such upload.")
        await StreamingResponse(_events(state), media_type="text/event-stream")(scope, receive, send)

    # ---- looking at one ------------------------------------------------------------------------------------

    async def _show(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._uploads.find(scope["path"].removeprefix(FILE))
        if path is None:
            raise Refused(404, "There is no such file.")
        with self._uploads.in_use(path):
            await _file(path)(scope, receive, send)


class State:
    """How far one upload is."""

    def __init__(self) -> None:
        self.form: multipart.Form | None = None
        self.ended = False


class Progress:
    """The uploads that were begun last, by the names that their callers gave them."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, State] = OrderedDict()

    def begin(self, upload_id: str | None) -> State:
        state = State()
        if upload_id is not None:
            self._states[upload_id] = state
            self._states.move_to_end(upload_id)
            while len(self._states) > TRACKED:
                self._states.popitem(last=False)
        return state

    async def find(self, upload_id: str) -> State | None:
        """The upload of that name, if it begins soon."""
        for _ in range(int(UNKNOWN_SECONDS / LOOK_SECONDS)):
            if upload_id in self._states:
                break
            await asyncio.sleep(LOOK_SECONDS)
        return self._states.get(upload_id)


async def _events(state: State) -> AsyncIterator[str]:
    """What a browser is told until the upload ends, however it ends."""
    told = looks = 0
    while not state.ended:
        form = state.form
        if form is not None and form.file_bytes > told:
            told, more = form.file_bytes, form.file_bytes - told
            yield _event({"msg": "update", "orig_name": form.file_name, "chunk_size": more})
        looks += 1
        if looks % HEARTBEAT_LOOKS == 0:
            yield _event({"msg": "heartbeat"})
        await asyncio.sleep(LOOK_SECONDS)
    yield _event({"msg": "done"})


def _event(message: dict[str, Any]) -> str:
    return f"data: {json.dumps(message)}\n\n"


def _file(path: Path) -> Response:
    from starlette.responses import FileResponse

    kind = mimetypes.guess_type(path.name)[0]
    shown = kind in SHOWN
    return FileResponse(
        path,
        media_type=kind if shown else "application/octet-stream",
        filename=path.name,
        content_disposition_type="inline" if shown else "attachment",
    )


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _upload_id(scope: Scope) -> str | None:
    """The name that a caller gave the upload, if any. Raises Refused for an odd one."""
    named = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("upload_id")
    if named is None:
        return None
    if len(named) > 1 or not UPLOAD_ID.fullmatch(named[0]):
        raise Refused(400, "upload_id is at most 64 letters and digits.")
    return named[0]
