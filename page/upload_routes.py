"""The HTTP routes for pictures: upload, upload progress, download of an uploaded file.

They replace Gradio's and answer in the same form, so that its page and its clients work. Gradio's own keep
form fields in memory, decode them with any character set the caller names, and have no quota.
"""

from __future__ import annotations

import asyncio
import json
import logging
import mimetypes
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from page.uploads import Uploads
from page.words import Language, language_of, say
from service.callers import Callers
from service.http import multipart
from service.http.bodies import ClientDisconnected, Receive, Refused, Scope, Send, length, memory_for, pieces
from service.http.headers import by_name, caller_of
from service.http.log_limit import LogLimit
from service.http.quota import NoCapacity, Quota, QuotaExceeded

if TYPE_CHECKING:
    from starlette.responses import Response

log = logging.getLogger(__name__)

UPLOAD: Final = "/gradio_api/upload"
PROGRESS: Final = "/gradio_api/upload_progress"
FILE: Final = "/gradio_api/file="
FIELD: Final = "files"  # the field name that Gradio's clients use

THREADS: Final = 4  # parse forms and write files outside the event loop
UPLOAD_MEMORY: Final = 512 << 10  # of one upload at most: a piece here, the next in the server's buffer
RETRY_SECONDS: Final = 60
LOG_SECONDS: Final = 60.0  # between two lines about refused uploads

UPLOAD_ID: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)
WAIT_SECONDS: Final = 3.0  # for an unknown upload: browsers ask for the progress before they upload
POLL_SECONDS: Final = 0.1
HEARTBEAT_POLLS: Final = 150
TRACKED: Final = 256  # uploads whose progress is known

# Displayed by a browser; other types are sent as a download.
DISPLAYED: Final = frozenset(
    f"image/{kind}" for kind in ("jpeg", "png", "gif", "webp", "bmp", "x-ms-bmp", "tiff", "avif")
)


class UploadRoutes:
    """An ASGI application over ``uploads``. ``memory`` is the quota for bodies being received."""

    def __init__(self, uploads: Uploads, callers: Callers, memory: Quota) -> None:
        self._uploads = uploads
        self._callers = callers
        self._memory = memory
        self._progress = Progress()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="page-uploads")
        self._refusals = LogLimit(LOG_SECONDS)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def serves(self, path: str) -> bool:
        return path in (UPLOAD, PROGRESS) or path.startswith(FILE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Refused and ClientDisconnected."""
        if scope["path"] == UPLOAD:
            await self._upload(scope, receive, send)
        elif scope["path"] == PROGRESS:
            await self._stream_progress(scope, receive, send)
        else:
            await self._send_file(scope, receive, send)

    # ---- upload --------------------------------------------------------------------------------------------

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import JSONResponse

        headers, caller = by_name(scope), caller_of(scope, self._callers)
        language = language_of(headers.get("accept-language"))
        with (
            memory_for(self._memory, caller, UPLOAD_MEMORY),
            self._progress.track(_upload_id(scope)) as state,
        ):
            try:
                paths = await self._receive(headers.get("content-type", ""), caller, receive, state)
            except multipart.FormError as error:
                raise Refused(400, str(error)) from None
            except QuotaExceeded:
                raise self._no_room(429, "share", caller, language) from None
            except NoCapacity:
                raise self._no_room(507, "no_room", caller, language) from None
            except ClientDisconnected:
                log.info("HUNG_UP | PATH=%s | LENGTH=%d", UPLOAD, length(scope) or 0)
                raise
        await JSONResponse([str(path) for path in paths])(scope, receive, send)

    async def _receive(self, content_type: str, caller: str, receive: Receive, state: State) -> list[Path]:
        """Store the form's files and return their paths; on any error, store none."""
        form: multipart.Form[Path] = multipart.Form(
            multipart.boundary_of(content_type),
            only_pictures(lambda name: self._uploads.create(caller, name)),
        )
        state.form = form
        loop = asyncio.get_running_loop()
        try:
            async for piece in pieces(receive):
                await loop.run_in_executor(self._threads, form.feed, piece)
            return paths_of(form)
        except BaseException:
            form.discard()
            raise

    def _no_room(self, status: int, reason: str, caller: str, language: Language) -> Refused:
        if (more := self._refusals.admit()) is not None:
            log.warning("UPLOAD_REFUSED | REASON=%s | FROM=%s | MORE=%d", reason, caller, more)
        return Refused(status, say(language, f"upload.{reason}"), retry_after=RETRY_SECONDS)

    # ---- progress ------------------------------------------------------------------------------------------

    async def _stream_progress(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import StreamingResponse

        upload_id = _upload_id(scope)
        if upload_id is None:
            raise Refused(400, "upload_id is required.")
        state = await self._progress.find(upload_id)
        if state is None:
            raise Refused(404, "Unknown upload.")
        await StreamingResponse(_events(state), media_type="text/event-stream")(scope, receive, send)

    # ---- download ------------------------------------------------------------------------------------------

    async def _send_file(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._uploads.find(scope["path"].removeprefix(FILE))
        if path is None:
            raise Refused(404, "File not found.")
        with self._uploads.in_use(path):
            await _file(path)(scope, receive, send)


def only_pictures(
    create: Callable[[str], multipart.Target[Path]],
) -> Callable[[str, str | None], multipart.Target[Path] | None]:
    """Let a form's files named FIELD go to ``create``, and drop its other fields. Raises FormError for other
    files."""

    def part(name: str, file_name: str | None) -> multipart.Target[Path] | None:
        if file_name is None and name == FIELD:
            raise multipart.FormError(f'"{FIELD}" is not a file. With curl, use -F {FIELD}=@PICTURE.')
        if file_name is not None and name != FIELD:
            raise multipart.FormError(f'Send the picture as "{FIELD}".')
        return None if file_name is None else create(file_name)

    return part


def paths_of(form: multipart.Form[Path]) -> list[Path]:
    """Return the paths of a complete form's files. Raises FormError."""
    if not (paths := form.finish()):
        raise multipart.FormError(f'The form has no file. Send the picture as "{FIELD}".')
    return paths


class State:
    """The progress of one upload."""

    def __init__(self) -> None:
        self.form: multipart.Form[Path] | None = None
        self.ended = False


class Progress:
    """The latest uploads, by the id that their client chose."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, State] = OrderedDict()

    @contextmanager
    def track(self, upload_id: str | None) -> Iterator[State]:
        state = State()
        if upload_id is not None:
            self._states[upload_id] = state
            self._states.move_to_end(upload_id)
            while len(self._states) > TRACKED:
                self._states.popitem(last=False)
        try:
            yield state
        finally:
            state.ended = True

    async def find(self, upload_id: str) -> State | None:
        """Return the upload, waiting up to WAIT_SECONDS for it to begin; else None."""
        for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
            if upload_id in self._states:
                break
            await asyncio.sleep(POLL_SECONDS)
        return self._states.get(upload_id)


async def _events(state: State) -> AsyncIterator[str]:
    """Yield server-sent events until the upload ends, successfully or not."""
    reported = polls = 0
    while not state.ended:
        form = state.form
        if form is not None and form.file_bytes > reported:
            more, reported = form.file_bytes - reported, form.file_bytes
            yield _event({"msg": "update", "orig_name": form.file_name, "chunk_size": more})
        polls += 1
        if polls % HEARTBEAT_POLLS == 0:
            yield _event({"msg": "heartbeat"})
        await asyncio.sleep(POLL_SECONDS)
    yield _event({"msg": "done"})


def _event(message: dict[str, Any]) -> str:
    return f"data: {json.dumps(message)}\n\n"


def _file(path: Path) -> Response:
    from starlette.responses import FileResponse

    kind = mimetypes.guess_type(path.name)[0]
    displayed = kind in DISPLAYED
    return FileResponse(
        path,
        media_type=kind if displayed else "application/octet-stream",
        filename=path.name,
        content_disposition_type="inline" if displayed else "attachment",
    )


def _upload_id(scope: Scope) -> str | None:
    """Return the id in the query, or None. Raises Refused for an invalid one."""
    sent = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("upload_id")
    if sent is None:
        return None
    if len(sent) > 1 or not UPLOAD_ID.fullmatch(sent[0]):
        raise Refused(400, "Invalid upload_id. Use at most 64 letters, digits, '.', '_' and '-'.")
    return sent[0]
