"""The service's command line, and the names that scripts import.

    python web_app.py --model demo --port 7860 --health-port 8000      see --help
    from web_app import init_model, predict, health_check              starts no server, loads no model

Started as a program it serves until SIGTERM or SIGINT (service.main). Exit codes are
service.contract.causes.ExitCode.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from service.contract.errors import InputError
from service.settings import DESCRIPTION, Settings

if TYPE_CHECKING:
    import socket

    from PIL import Image

    from service.build import Application
    from service.front import Front
    from service.listening import Connections

__all__ = ["InputError", "health_check", "init_model", "main", "predict"]

_lock = threading.Lock()  # guards _application
_application: Application | None = None


def init_model() -> bool:
    """Load the model named by the environment (OFA_MODEL, …), with retries. True if it is loaded."""
    return _shared().supervisor.load()


def predict(
    image: Image.Image | str | Path | None, text: str | None, premise: str | None = None
) -> dict[str, object]:
    """Judge whether ``image`` (PIL, or a path) shows what ``text`` says: {"label", "score", "scores",
    "reason"}.

    ``reason`` is None when the model decided. Loads the model on first use. Raises InputError for input that
    cannot be judged.
    """
    application = _shared()
    application.supervisor.load_first()
    return application.submit(image, text, premise).result().as_dict()


def health_check() -> dict[str, str]:
    """Return the ``details`` of the health report: process, gpu, memory, disk, model, inference."""
    return dict(_shared().report().details)


def _shared() -> Application:
    """Return the one application of a script that imports this module, configured by the environment."""
    global _application
    with _lock:
        if _application is None:
            from service.build import build

            _application = build(Settings.from_args([], os.environ))
            # A probe may run native code when the script ends, and the interpreter's end would abort it.
            # Waits for the next cancel point only.
            atexit.register(_application.supervisor.stop, 0.0)
        return _application


def main(argv: Sequence[str]) -> int:
    """Run the service until a signal stops it or it cannot continue. Returns the exit code."""
    from service.main import main as serve

    return serve(argv, prog="web_app.py", description=DESCRIPTION, front=_front)


def _front(
    application: Application, settings: Settings, listener: socket.socket, connections: Connections
) -> Front:
    """Make the public server: the API, and the page unless it is off."""
    from api.app import PREFIXES, ApiSite
    from batch.batches import Batches
    from page.login import page_login
    from page.site import PageSite
    from service.callers import Callers
    from service.front import Front, Site
    from service.http.identity import Identity

    callers = Callers(settings.trusted_proxies)
    login = page_login(settings, listener.getsockname()[1], callers)
    identity = Identity(application.api_keys, sessions=login, callers=callers)
    batches = Batches(application, settings) if settings.engine is None else None
    api = ApiSite(application, settings, identity, batches)
    rest: Site = PageSite(application, settings, identity, login, batches) if settings.page_served else api
    sites = {**dict.fromkeys(PREFIXES, api), "": rest}
    workers = [] if batches is None else [batches]
    return Front(sites, listener, connections, root_path=settings.root_path, workers=workers)


if __name__ == "__main__":
    from service.process.exit_file import exit_now

    exit_now(main(sys.argv[1:]))
