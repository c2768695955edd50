"""What Gradio and its libraries need before they serve: environment, logging, document, queue limits.

Their tracebacks and warnings quote input. Here they become log lines with the error's class and traceback,
without its message.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from service.http.errors import log_error

if TYPE_CHECKING:
    import gradio as gr

# Gradio reads these when it is imported or builds a component. By default it would recompute figures over the
# last 10,000 events at every event, for a page that is closed here.
ENVIRONMENT: Final = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",
}
#: Gradio's modules that print tracebacks while serving.
PRINTING: Final = ("gradio.queueing", "gradio.route_utils", "gradio.routes", "gradio.utils")
PREVIEW: Final = re.compile(
    r"""<meta\s+(property|name)="(og|twitter):\w+"\s+content="([^"]*(gradio|Gradio|Click)[^"]*|\{url\})"\s*/>"""
)


def prepare_environment(upload_folder: Path) -> None:
    """Set what Gradio and httpx read at import; call before importing Gradio."""
    os.environ |= ENVIRONMENT | {"GRADIO_TEMP_DIR": str(upload_folder)}
    _ignore_proxies()


@functools.cache
def _ignore_proxies() -> None:
    """Keep httpx from reading proxies and certificates from the environment.

    Gradio creates httpx clients at import, none of them used here. An unknown kind of proxy, an invalid
    no_proxy or a missing certificate file would fail the import. The model download does not use httpx.
    """
    import httpx

    for kind in (httpx.Client, httpx.AsyncClient, httpx.HTTPTransport, httpx.AsyncHTTPTransport):
        without_env = functools.partialmethod(kind.__init__, trust_env=False)
        kind.__init__ = without_env  # type: ignore[method-assign, assignment]


@contextmanager
def without_stub_files() -> Iterator[None]:
    """Keep Gradio, imported in this context, from writing a .pyi file beside each component.

    At every import it parses and renders the source of all its components: one second of processor time.
    It skips a component whose source file is unknown.
    """
    getfile = inspect.getfile

    def of_others(subject: Any) -> str:
        if isinstance(subject, type) and subject.__module__.startswith(("gradio.", "page.")):
            raise OSError("no source file, for a moment")
        return getfile(subject)

    inspect.getfile = of_others  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getfile = getfile


class _Unexecuted(ModuleType):
    """A module that is executed when a name that it lacks is read. Its file and path are set before, so that
    ``inspect`` can list modules without executing it."""

    _lock = threading.RLock()  # held while the module is executed; guards _begun
    _begun = False

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            if not _Unexecuted._begun:
                _Unexecuted._begun = True
                loader: Any = self.__loader__
                loader.exec_module(self)
                object.__setattr__(self, "__class__", ModuleType)
        return ModuleType.__getattribute__(self, name)


class _LazyPandas(Loader):
    """Finds pandas without executing it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == "pandas" else None
        if spec is not None and spec.loader is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None  # as other modules are made

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        module.__class__ = _Unexecuted


@contextmanager
def without_pandas() -> Iterator[None]:
    """Keep Gradio, imported in this context, from executing pandas, which only its tables and plots use:
    330 modules, 0.13 s of processor time."""
    finder = _LazyPandas()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


# ---- logging -----------------------------------------------------------------------------------------------


def redirect_output() -> None:
    """Log what Gradio's modules would print."""
    for name in PRINTING:
        module = import_module(name)
        setattr(module, "traceback", SimpleNamespace(print_exc=_print_exc, format_exc=lambda: ""))  # noqa: B010


def _print_exc(*args: object, **kwargs: object) -> None:
    log_error("Gradio", sys.exc_info()[1])


# ---- Gradio's page -----------------------------------------------------------------------------------------


def remove_link_previews() -> None:
    """Serve Gradio's document without the link previews that name Gradio and its hosts."""
    from gradio.routes import templates
    from jinja2 import FunctionLoader

    environment = templates.env
    packaged = environment.loader
    assert packaged is not None

    def source(name: str) -> str:
        text = packaged.get_source(environment, name)[0]
        return PREVIEW.sub("", text) if name.endswith("index.html") else text

    environment.loader = FunctionLoader(source)


def set_queue_limits(page: gr.Blocks, concurrent: int) -> None:
    """Let Gradio run ``concurrent`` requests at once, and keep as many sessions.

    Mounting has no parameters for these. By default 40 events run and others wait outside our deadline;
    10,000 sessions of 40 KB are kept, one for every API call; an idle queue is polled every millisecond.
    """
    page.max_threads = page.state_session_capacity = concurrent
    queue = page._queue
    queue.max_size = queue.max_thread_count = concurrent
    queue.sleep_when_free = 0.01
