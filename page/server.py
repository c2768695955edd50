"""The page's HTTP server: its port, its thread, its end.

The port is taken before anything slow happens, so that a port in use is told at once and a browser that
comes early waits instead of being refused. Gradio, whose import takes seconds, is imported by ``start``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from page import banner, bodies, card, quiet
from page.calls import Calls
from page.gate import Gate, upload_bytes
from page.operations import OperationsCalls, access_of
from page.receiving import Receiving
from page.sessions import Sessions
from page.shares import Shares
from page.surroundings import ignore_proxies
from page.uploads import Uploads
from page.words import language_of
from service.callers import Callers
from service.contract.times import STOP_PAGE_ANSWERS, STOP_PAGE_CLOSE, STOP_PAGE_FORCED
from service.listening import Connections, page_limits
from service.settings import Settings

if TYPE_CHECKING:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from starlette.requests import Request

    from page.judging import Application

log = logging.getLogger(__name__)

START_SECONDS: Final = 60.0
# Read by Gradio when it is imported or builds a component; there is no other way to tell it. Its figures
# about events, for a page we do not open, would be computed anew from the last 10,000 twice for every event.
ENVIRONMENT: Final = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",
}
ADVERTISEMENT: Final = re.compile(
    r"""<meta\s+(property|name)="(og|twitter):\w+"\s+content="([^"]*(gradio|Gradio|Click)[^"]*|\{url\})"\s*/>"""
)


class PageServer:
    """The page over ``application``, served from a thread on ``sock``, which it owns from now on."""

    def __init__(
        self,
        application: Application,
        settings: Settings,
        sock: socket.socket,
        connections: Connections | None = None,
    ) -> None:
        self._application = application
        self._settings = settings
        self._socket = sock
        self._connections = connections if connections is not None else Connections("page", page_limits())
        self._callers = Callers(settings.trusted_proxies)
        self._uploads: Uploads | None = None
        self._receiving: Receiving | None = None
        self._operations: OperationsCalls | None = None
        # A thread for each request that may run: one that waited for a thread would wait unseen.
        self._intake = ThreadPoolExecutor(_at_once(settings.queue_size), thread_name_prefix="page-intake")
        self._page: gr.Blocks | None = None
        self._gate: Gate | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def alive(self) -> bool:
        """Whether the server's thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Build the page and serve it; returns when it answers. Raises RuntimeError if it never does."""
        largest = upload_bytes(self._settings.max_bytes)
        self._uploads = uploads = Uploads(self.port, largest=largest)
        uploads.start()
        ignore_proxies()
        os.environ |= ENVIRONMENT | {"GRADIO_TEMP_DIR": str(uploads.folder)}
        import uvicorn

        from page.connections import Server, protocol_of

        access = access_of(self._settings)
        if access is not None:
            self._operations = OperationsCalls(
                self._application.operations,
                access,
                self.port,
                callers=self._callers,
                root_path=self._settings.root_path,
            )
        self._gate = gate = self._guard(asyncio.run(self._build(uploads)), uploads)
        config = uvicorn.Config(
            gate,
            http=protocol_of(self._connections),
            ws="none",
            proxy_headers=False,  # service.callers reads them, and only where they can be believed
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=int(self._connections.limits.keep_alive),
            timeout_graceful_shutdown=int(STOP_PAGE_CLOSE),
        )
        self._server = server = Server(config, self._connections)
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [self._socket]}, name="page-server", daemon=True
        )
        self._thread.start()
        end = time.monotonic() + START_SECONDS
        while not server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                raise RuntimeError("The page's server did not start.")
            time.sleep(0.01)

    def stop(self) -> None:
        """Let finished answers out, close the connections, stop the thread; takes a few seconds at most."""
        if self._gate is not None:
            self._gate.close()
        if self._page is not None:
            self._flush(self._page)
            self._page.close(verbose=False)  # ends the streams that browsers keep open
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(STOP_PAGE_CLOSE)
            if self._thread.is_alive():
                self._server.force_exit = True
                self._thread.join(STOP_PAGE_FORCED)
        self._intake.shutdown(wait=False, cancel_futures=True)
        if self._operations is not None:
            self._operations.close()
        if self._receiving is not None:
            self._receiving.close()
        self._socket.close()
        if self._uploads is not None:
            self._uploads.stop()

    def _guard(self, app: FastAPI, uploads: Uploads) -> Gate:
        """The page behind its gate."""
        assert self._page is not None
        memory = Shares(bodies.MEMORY_BYTES, bodies.MEMORY_SHARE)
        self._receiving = Receiving(uploads, self._callers, memory)
        functions = [number for number, event in self._page.fns.items() if event.fn is not None]
        return Gate(
            app,
            max_bytes=self._settings.max_bytes,
            operations=self._operations is not None,
            calls=Calls(functions),
            receiving=self._receiving,
            callers=self._callers,
            memory=memory,
            sessions=Sessions(self._page._queue),
            root_path=self._settings.root_path,
        )

    async def _build(self, uploads: Uploads) -> FastAPI:
        """The page as an ASGI app. Waits for nothing, but wants a running event loop: Gradio makes locks for
        one and, finding none, would make loops that nobody closes."""
        import gradio as gr
        from fastapi import FastAPI

        from page import layout

        quiet.take_over()
        _take_over_document()

        shown = card.load(self._settings.model)
        self._page = page = layout.build(
            self._application,
            uploads,
            intake=self._intake,
            limit=self._settings.timeout,
            card=shown,
            operations=self._operations is not None,
            callers=self._callers,
        )
        _fit(page, self._settings.queue_size)
        app = FastAPI(openapi_url=None)
        _add_routes(app, self._application, shown)
        if self._operations is not None:
            self._operations.add_to(app)
        gr.mount_gradio_app(
            app,
            page,
            path="/",
            root_path=self._settings.root_path or None,
            footer_links=[],
            run_history=False,
            show_error=False,
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
            favicon_path=str(layout.ASSETS / "favicon.svg"),
            i18n=page.i18n_instance,
            theme=layout.theme(),
            css_paths=[layout.ASSETS / "page.css"],
            js=(layout.ASSETS / "page.js").read_text(encoding="utf-8"),
        )
        # Else Gradio keeps, for everybody, the one with the address by which the first caller asked.
        app.routes[-1].app.api_info = page.get_api_info()  # type: ignore[attr-defined]
        page.has_launched = True  # what launch() would set; Gradio checks callers' paths only then
        return app

    @staticmethod
    def _flush(page: gr.Blocks) -> None:
        """Wait, bounded, until the answers that are ready have been fetched from Gradio's queue."""
        queue, end = page._queue, time.monotonic() + STOP_PAGE_ANSWERS
        while time.monotonic() < end:
            if not any(queue.active_jobs) and not any(list(queue.pending_event_ids_session.values())):
                return
            time.sleep(0.02)


def _take_over_document() -> None:
    """Serve Gradio's document without its advertisement: the link previews that name Gradio and its hosts."""
    from gradio.routes import templates
    from jinja2 import FunctionLoader

    environment = templates.env
    packaged = environment.loader
    assert packaged is not None

    def source(name: str) -> str:
        text = packaged.get_source(environment, name)[0]
        return ADVERTISEMENT.sub("", text) if name.endswith("index.html") else text

    environment.loader = FunctionLoader(source)


def _at_once(queue_size: int) -> int:
    """How many requests may run: those that our queue may hold, and some that are being read or refused."""
    return queue_size + 64


def _fit(page: gr.Blocks, queue_size: int) -> None:
    """Bound what Gradio keeps, and let it run every request at once that our queue may hold.

    Mounting has no parameters for these. By default 40 events run and others wait, unseen by our deadline;
    10,000 sessions are kept, 40 KB each, and every call from a program is one, though we keep nothing in
    them; an idle queue is looked at every millisecond.
    """
    page.max_threads = page.state_session_capacity = _at_once(queue_size)
    queue = page._queue
    queue.max_size = page.max_threads  # that wait beside those that run
    queue.max_thread_count = page.max_threads
    queue.sleep_when_free = 0.01


def _add_routes(app: FastAPI, application: Application, shown: card.Card) -> None:
    from starlette.responses import FileResponse, JSONResponse, Response

    async def status(request: Request) -> Response:
        language = language_of(request.headers.get("accept-language"))
        snapshot = application.snapshot()
        content: dict[str, Any] = {
            "state": banner.tone(snapshot),
            "queue": snapshot.activity.depth > 0,
            "html": banner.render(snapshot, language),
            "lost": banner.lost(language),
        }
        return JSONResponse(content, headers={"cache-control": "no-store"})

    async def example(request: Request) -> Response:
        index = int(request.path_params["index"])
        if index >= len(shown.examples):
            return Response(status_code=404)
        return FileResponse(shown.examples[index].image, headers={"cache-control": "max-age=3600"})

    app.add_route("/status", status)
    app.add_route("/example/{index:int}", example)
