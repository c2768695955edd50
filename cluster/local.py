"""A Ray cluster on one machine that only this machine can reach.

Whoever reaches one of Ray's ports may run code as this user. So they are on loopback, and need a token, since
another user of the machine reaches loopback, too.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import psutil

from api.bodies import BODY_SECONDS
from cluster.arguments import Arguments
from service.contract.causes import ExitCode
from service.listening import listen

if TYPE_CHECKING:
    from ray.serve import Application

ROOT: Final = Path(__file__).resolve().parent.parent
LOOPBACK: Final = "127.0.0.1"
APPLICATION: Final = "visual-entailment"
OBJECT_STORE_BYTES: Final = 512 << 20  # holds the bodies of requests on their way to a replica
POLL_SECONDS: Final = 0.2
SPARE_SECONDS: Final = 15.0
PREFIX: Final = "ofa-ray-"
LOCK: Final = "lock"  # held while the cluster runs
VITAL: Final = ("raylet", "gcs_server")  # without them nothing is served
#: Read by Ray's processes when they start.
ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    # With it Ray takes a loopback address for the node's instead of looking for one that others can reach.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # An HTTP proxy is replaced after three failed checks. The defaults are 10.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "5",
    # A replica that fails its health check is killed at once. Ray would wait for it to end, which it may not.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # Ray's HTTP proxy would let any program on this machine name another address as its own with a header.
    # --trusted-proxies are those that may.
    "FORWARDED_ALLOW_IPS": "none",
    # By default, engines would run at the lowest priority but four.
    "RAY_worker_niceness": "0",
}


def serve_until_signal(
    arguments: Arguments, port: int, make: Callable[[Arguments], Application] | None = None
) -> int:
    """Serve on ``port`` until SIGTERM or SIGINT; returns the exit code. ``make`` replaces
    ``cluster.app.application``. Raises SettingsError if the port is taken."""
    with listen(LOOPBACK, port, "--port") as probe:
        port = int(probe.getsockname()[1])
    stop = threading.Event()
    _on_signal(stop)
    try:
        with cluster(_cpus(arguments)):
            _on_signal(stop)  # again, as Ray has its own handler
            _serve(stop, _in_thread(lambda: deploy(arguments, port, make)))
            print("STOPPING", flush=True)
    except SystemExit:  # by Ray's handler, while Ray starts
        pass
    except NotServing as error:
        print(f"NOT_SERVING | CODE={error.code} | MSG={error}", file=sys.stderr, flush=True)
        return ExitCode.LOAD_FAILED
    print("ENDED", flush=True)
    return ExitCode.ORDERLY


class NotServing(Exception):
    """The application could not be deployed (``not_started``), or a process of Ray ended (``ray_ended``)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _serve(stop: threading.Event, deployed: Future[str]) -> None:
    """Return when ``stop`` is set. Raises NotServing."""
    vital = [one for one in psutil.Process().children() if one.name() in VITAL]
    announced = False
    while not stop.wait(POLL_SECONDS):
        if deployed.done() and not announced:
            if (error := deployed.exception()) is not None:
                raise NotServing("not_started", f"{type(error).__name__}: {error}")
            print(f"LISTENING | SERVER=cluster | URL={deployed.result()}", flush=True)
            announced = True
        if ended := [one for one in vital if not _runs(one)]:
            raise NotServing("ray_ended", f"Ray's process {ended[0].pid} ended.")


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def cluster(cpus: int) -> Iterator[Path]:
    """Run a Ray cluster that promises ``cpus`` to engines; yields its folder, which is only this user's."""
    with _folder() as folder:
        token = folder / "auth_token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        os.environ |= {**ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(token), "PYTHONPATH": _python_path()}
        os.environ.pop("RAY_AUTH_TOKEN", None)  # it would win over the file
        import ray
        from ray import serve

        try:
            ray.init(
                address="local",  # never a cluster that another program has left behind
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                _node_ip_address=LOOPBACK,
                _temp_dir=str(folder / "ray"),  # which Ray makes writable for everybody
            )
            yield folder
            serve.shutdown()
        finally:
            ray.shutdown()


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder for one cluster, and remove it at the end; remove those of clusters that were killed."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError), (old / LOCK).open("rb") as lock:
            if old.stat().st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its cluster runs
                _remove(old)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # short: Ray's Unix sockets are below it
    with (folder / LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a cluster's folder, after killing what is left of its processes."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()) and process.pid != os.getpid():
                process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def deploy(arguments: Arguments, port: int, make: Callable[[Arguments], Application] | None = None) -> str:
    """Serve the application on ``port``, return its URL once it answers. Raises RuntimeError."""
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation
    from ray.serve.schema import LoggingConfig

    from cluster.app import application

    gpus = arguments.gpus * arguments.replicas
    if gpus > ray.cluster_resources().get("GPU", 0):
        raise RuntimeError(
            f"{arguments.replicas} replicas need {gpus:g} GPUs. Pass fewer --gpus or --replicas."
        )
    # A bound for an ingress that answers nothing; its own limits are shorter.
    limit = BODY_SECONDS + arguments.settings().timeout + SPARE_SECONDS
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host=LOOPBACK, port=port, request_timeout_s=limit),
        logging_config=LoggingConfig(enable_access_log=False),
    )
    serve.run((make or application)(arguments), name=APPLICATION, route_prefix="/")
    return f"http://{LOOPBACK}:{port}"


def _in_thread(work: Callable[[], str]) -> Future[str]:
    """Run ``work`` in a thread that does not keep the process alive."""
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="deploy", daemon=True).start()
    return future


def _cpus(arguments: Arguments) -> int:
    """Return how many cores to promise, on a small machine more than there are."""
    engines = arguments.max_replicas or arguments.replicas
    return max(os.cpu_count() or 1, engines * arguments.cpus + 1)


def _python_path() -> str:
    """Return PYTHONPATH with which Ray's processes can import this package."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _on_signal(stop: threading.Event) -> None:
    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
