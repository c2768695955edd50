"""The page as a site of service.front: built at the start, drained and closed at the stop."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from page import banner, card, gradio_setup
from page.batch.example import example_zip
from page.batch.frame import EXAMPLE_PATH, STYLES
from page.calls import CallValidator
from page.gate import Gate, upload_bytes
from page.login import Login
from page.operations.routes import OperationsRoutes, access_of
from page.sessions import Sessions
from page.upload_routes import UploadRoutes
from page.uploads import Uploads
from page.words import language_of
from service.callers import Callers
from service.contract.times import STOP_PAGE_ANSWERS
from service.http import bodies
from service.http.identity import Identity
from service.http.quota import Quota
from service.settings import Settings

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI
    from starlette.requests import Request

    from page.handlers import Application


class Batches(Protocol):
    """The part of ``batch.batches.Batches`` that the page uses."""

    @property
    def off(self) -> str | None: ...


class PageSite:
    """The page of ``application``: Gradio behind the gate."""

    lifespan = True

    def __init__(
        self,
        application: Application,
        settings: Settings,
        identity: Identity | None = None,
        login: Login | None = None,
        batches: Batches | None = None,
    ) -> None:
        """``identity`` decides who may ask, by default everyone; with --page open it does not apply here.
        ``login`` is the page's, if it has a password; ``batches`` are those of the API."""
        self._application = application
        self._login = login
        self._settings = settings
        self._callers = Callers(settings.trusted_proxies)
        self._batches = batches
        # The tab calls the API from the browser, which has no key.
        asks_freely = settings.page != "open" or identity is None or not identity.required
        self._batch_tab = asks_freely and settings.engine is None
        if identity is None or settings.page == "open":
            identity = Identity(callers=self._callers)
        self._identity = identity
        # One thread per concurrent request: a request that waits for a thread would wait outside the queue.
        self._intake = ThreadPoolExecutor(
            max_concurrent(settings.queue_size), thread_name_prefix="page-intake"
        )
        self._draining = ExitStack()
        self._cleanup = ExitStack()
        self._cleanup.callback(self._intake.shutdown, wait=False, cancel_futures=True)

    def start(self, port: int) -> Gate:
        """Build the page. Imports Gradio, which takes seconds."""
        uploads = Uploads(port, largest=upload_bytes(self._settings.max_bytes))
        self._cleanup.callback(uploads.stop)
        uploads.start()
        gradio_setup.prepare_environment(uploads.folder)
        operations = self._operations_routes(port)
        # In an event loop: without one, Gradio creates loops for its locks and never closes them.
        page, app = asyncio.run(self._build(uploads, operations))
        gate = self._gate(app, page, uploads, operations is not None)
        self._draining.callback(page.close, verbose=False)  # ends the streams that browsers keep open
        self._draining.callback(_wait_for_answers, page)
        self._draining.callback(gate.close)
        return gate

    def drain(self) -> None:
        """Refuse new calls, deliver finished answers, and end the streams that browsers keep open."""
        self._draining.close()

    def close(self) -> None:
        """Delete the uploads and stop the threads."""
        self._cleanup.close()

    def _operations_routes(self, port: int) -> OperationsRoutes | None:
        access = access_of(self._settings)
        if access is None:
            return None
        routes = OperationsRoutes(
            self._application.operations,
            access,
            port,
            callers=self._callers,
            root_path=self._settings.root_path,
        )
        self._cleanup.callback(routes.close)
        return routes

    def _gate(self, app: FastAPI, page: gr.Blocks, uploads: Uploads, operations: bool) -> Gate:
        memory = Quota(bodies.MEMORY_BYTES, bodies.MEMORY_PER_CALLER)
        upload_routes = UploadRoutes(uploads, self._callers, memory)
        self._cleanup.callback(upload_routes.close)
        return Gate(
            app,
            max_bytes=self._settings.max_bytes,
            operations=operations,
            login=self._login is not None,
            identity=self._identity,
            calls=CallValidator([number for number, event in page.fns.items() if event.fn is not None]),
            uploads=upload_routes,
            callers=self._callers,
            memory=memory,
            sessions=Sessions(page._queue),
            root_path=self._settings.root_path,
        )

    async def _build(
        self, uploads: Uploads, operations: OperationsRoutes | None
    ) -> tuple[gr.Blocks, FastAPI]:
        """Return the page and the ASGI application that serves it."""
        from fastapi import FastAPI

        with gradio_setup.without_stub_files(), gradio_setup.without_pandas():
            import gradio as gr

            from page import layout

        gradio_setup.redirect_output()
        gradio_setup.remove_link_previews()
        model_card = card.load(self._settings.model)
        page = layout.build(
            self._application,
            uploads,
            intake=self._intake,
            limit=self._settings.timeout,
            card=model_card,
            operations=operations is not None,
            batches=self._batch_tab,
            login=self._login is not None,
            keys=self._settings.api_keys_file is not None,
            callers=self._callers,
            identity=self._identity,
        )
        gradio_setup.set_queue_limits(page, max_concurrent(self._settings.queue_size))
        app = FastAPI(openapi_url=None)
        _add_routes(app, self._application, model_card, self._batches)
        if operations is not None:
            operations.add_to(app)
        if self._login is not None:
            self._login.add_to(app)
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
            css_paths=[layout.ASSETS / "page.css", STYLES],
            js=(layout.ASSETS / "page.js").read_text(encoding="utf-8"),
        )
        # Else Gradio caches, for all callers, the description with the first caller's address in it.
        app.routes[-1].app.api_info = page.get_api_info()  # type: ignore[attr-defined]
        page.has_launched = True  # set by launch() otherwise; without it Gradio does not check callers' paths
        return page, app


def max_concurrent(queue_size: int) -> int:
    """Return how many requests may run in Gradio: a full queue, and some that are being read or refused."""
    return queue_size + 64


def _wait_for_answers(page: gr.Blocks) -> None:
    """Wait up to STOP_PAGE_ANSWERS seconds until clients have fetched the answers in Gradio's queue."""
    queue, end = page._queue, time.monotonic() + STOP_PAGE_ANSWERS
    while time.monotonic() < end:
        if not any(queue.active_jobs) and not any(list(queue.pending_event_ids_session.values())):
            return
        time.sleep(0.02)


def _add_routes(
    app: FastAPI, application: Application, model_card: card.Card, batches: Batches | None
) -> None:
    from starlette.responses import FileResponse, JSONResponse, Response

    async def status(request: Request) -> Response:
        language = language_of(request.headers.get("accept-language"))
        snapshot = application.snapshot()
        content: dict[str, Any] = {
            "state": banner.state_of(snapshot),
            "queue": snapshot.activity.depth > 0,
            "html": banner.render(snapshot, language),
            "lost": banner.lost(language),
            "batches_off": None if batches is None else batches.off,
        }
        return JSONResponse(content, headers={"cache-control": "no-store"})

    async def example(request: Request) -> Response:
        index = int(request.path_params["index"])
        if index >= len(model_card.examples):
            return Response(status_code=404)
        return FileResponse(model_card.examples[index].image, headers={"cache-control": "max-age=3600"})

    def example_list(request: Request) -> Response:
        try:
            content = example_zip(model_card.examples)
        except OSError:
            return Response(status_code=404)
        return Response(content, media_type="application/zip")

    app.add_route("/status", status)
    app.add_route(f"/{EXAMPLE_PATH}", example_list)
    app.add_route("/example/{index:int}", example)
