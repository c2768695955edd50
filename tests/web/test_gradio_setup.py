"""Library output that is redirected to the log without input."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import gradio
import pytest

from page import gradio_setup
from service.http.errors import on_loop_error, redirect_server_log
from service.settings import ROOT

SECRET = "xylophonist"
# Modules of Gradio that print and are not used here.
NOT_USED = {"gradio.cli", "gradio.exceptions", "gradio.screen_recording_utils"}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    modules = [importlib.import_module(name) for name in gradio_setup.PRINTING]
    server = logging.getLogger("uvicorn.error")
    before = [module.traceback for module in modules], server.handlers, server.propagate
    yield
    for module, traceback in zip(modules, before[0], strict=True):
        module.traceback = traceback
    server.handlers, server.propagate = before[1], before[2]


def failing() -> Exception:
    """Return an error with a traceback."""
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        return error


def test_every_module_that_prints_tracebacks_is_known() -> None:
    printing = set()
    for found in pkgutil.walk_packages(gradio.__path__, "gradio."):
        if found.name.split(".")[1] in ("cli", "_simple_templates", "templates") or found.ispkg:
            continue
        spec = found.module_finder.find_spec(found.name)  # type: ignore[call-arg]
        if spec and spec.origin and "traceback.print" in Path(spec.origin).read_text(encoding="utf-8"):
            printing.add(found.name)
    assert printing - NOT_USED == set(gradio_setup.PRINTING)


@pytest.mark.parametrize("name", gradio_setup.PRINTING)
def test_a_traceback_of_gradio_is_logged_without_its_message(
    name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    gradio_setup.redirect_output()
    module: ModuleType = importlib.import_module(name)
    try:
        raise failing()
    except ValueError:
        module.traceback.print_exc()
    assert "BROKEN | MSG=Exception in Gradio | ERROR=ValueError" in caplog.text
    assert "in failing" in caplog.text, "the traceback is kept"
    assert SECRET not in caplog.text + "".join(capfd.readouterr())


def test_an_error_of_uvicorn_is_logged_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    redirect_server_log()
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=failing())
    assert "BROKEN | MSG=Exception in ASGI application | ERROR=ValueError" in caplog.text
    assert SECRET not in caplog.text


def test_unreadable_requests_are_logged_at_a_limited_rate(caplog: pytest.LogCaptureFixture) -> None:
    redirect_server_log()
    for _ in range(100):
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert [record.getMessage() for record in caplog.records] == ["REQUEST_UNREADABLE | MORE=0"]


def test_an_error_of_a_task_never_awaited_is_logged_without_its_message(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def fail() -> None:
        raise failing()

    async def forget() -> None:
        asyncio.get_running_loop().set_exception_handler(on_loop_error)
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        gc.collect()

    asyncio.run(forget())
    assert "BROKEN | MSG=Exception in event loop | ERROR=ValueError" in caplog.text
    assert SECRET not in caplog.text + "".join(capfd.readouterr())


STUBS = """
import contextlib, os, sys, jinja2
from page.gradio_setup import without_stub_files
render = jinja2.Template.render
def watched(self, **values):
    if "contents" in values:  # the text of a stub
        print("renders", flush=True)
        os._exit(0)
    return render(self, **values)
jinja2.Template.render = watched
with without_stub_files() if sys.argv[1] == "without" else contextlib.nullcontext():
    import gradio
print("imported")
"""


@pytest.mark.parametrize(("stubs", "printed"), [("without", "imported"), ("with", "renders")])
def test_gradios_import_writes_no_stub_files(stubs: str, printed: str) -> None:
    """The second case fails once Gradio stops writing them: then ``without_stub_files`` can go."""
    assert subprocess.check_output([sys.executable, "-c", STUBS, stubs], cwd=ROOT, text=True).split() == [
        printed
    ]


PANDAS = """
import sys, threading
from page.gradio_setup import without_pandas
with without_pandas():
    import pandas
print(pandas.__file__ is not None, "pandas.core" in sys.modules)
tables = []
threads = [threading.Thread(target=lambda: tables.append(pandas.DataFrame({"a": [1]}))) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(tables), hasattr(pandas, "no_such_name"), type(pandas).__name__)
"""


def test_pandas_is_executed_once_at_its_first_use_whichever_thread_that_is_in() -> None:
    output = subprocess.check_output([sys.executable, "-c", PANDAS], cwd=ROOT, text=True)
    assert output.splitlines() == ["True False", "4 False module"]
