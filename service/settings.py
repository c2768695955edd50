# ruff: noqa: RUF009  # _option returns a dataclass field
"""Settings from flags and environment variables; the only module that reads the environment.

A flag wins over its variable, a variable over the default; an empty variable counts as unset. ``--help`` and
the README's table (printed by ``python -m service.settings``) are generated from the fields.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from service import api_keys, engine_key
from service.callers import Network
from service.contract.errors import SettingsError
from service.contract.times import STOP_GRACE
from service.value_types import (
    DEVICE,
    ENGINE,
    FILE,
    FOLDER,
    HOST,
    MODEL,
    NETWORKS,
    PASSWORD,
    PORT,
    PROGRAM,
    ROOT_PATH,
    SIZE,
    SWITCH,
    URL,
    WORD,
    ValueType,
    choice,
    integer,
    seconds,
)

ROOT = Path(__file__).resolve().parent.parent
DESCRIPTION = "Judge whether a picture shows what a sentence says: Yes, No or Maybe."
DEFAULT_MODEL = "iic/ofa_visual-entailment_snli-ve_large_en"
#: Variables of earlier versions. Setting one has no effect but a warning.
REMOVED: Final = ("OFA_BATCH_WAIT", "OFA_GOLDEN_INTERVAL", "OFA_LOAD_PAUSE", "OFA_TRIAL_PAUSE")
#: Settings of a model in this process, which would mislead beside --engine.
OF_THE_MODEL: Final = ("model", "revision", "backend", "device", "dtype")
#: What requirements-otel.txt installs.
TRACING: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_SERVICE_LINKS: Final = (
    "Kubernetes sets this variable for a Service of that name: put enableServiceLinks: false into the pod's "
    "spec, or rename the Service."
)


@dataclass(frozen=True, slots=True)
class Option:
    """How a field is set. A ``secret`` has no flag, since any user can list command lines, and its value is
    never displayed."""

    env: str
    type: ValueType
    help: str
    secret: bool


def _option(default: object, type: ValueType, help: str, *, env: str = "", secret: bool = False) -> Any:
    """A field of Settings. ``env`` is ``OFA_<NAME>`` unless given."""
    option = Option(env, type, help, secret)
    return dataclasses.field(default=default, repr=not secret, metadata={"option": option})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The configuration of one instance, in seconds, bytes, pixels and characters."""

    model: str = _option(
        DEFAULT_MODEL, MODEL, "the model: 'demo', a folder in ModelScope's format, or a hub id"
    )
    revision: str | None = _option(
        None,
        WORD,
        "hub revision to pin; unset uses the cached one, or fetches the newest",
        env="OFA_MODEL_REVISION",
    )
    cache_dir: Path | None = _option(
        None, FOLDER, "cache of fetched models; unset uses the hub client's default", env="MODELSCOPE_CACHE"
    )
    hub_endpoint: str | None = _option(None, URL, "URL of another model hub", env="MODELSCOPE_ENDPOINT")
    verify: str = _option(
        "quick",
        choice("quick", "full"),
        "how a local copy is verified: by sizes and times, or by all checksums",
    )
    backend: str = _option(
        "native",
        choice("native", "modelscope"),
        "the native network, or ModelScope's pipeline in a child process",
    )
    reference_python: Path | None = _option(
        None, PROGRAM, "Python interpreter with ModelScope's dependencies, for --backend modelscope"
    )
    device: str = _option("auto", DEVICE, "compute device; auto uses CUDA if available")
    dtype: str = _option(
        "auto",
        choice("auto", "fp32", "bf16", "fp16", "int8"),
        "precision; auto is bf16 where the hardware multiplies it, else fp32 (fp16 on older GPUs), "
        "and on a CPU int8 once its check on the model's weights has passed",
    )
    precision_guard: str = _option("on", SWITCH, "decide close calls of a precision below fp32 in fp32")
    converted_cache: str = _option(
        "on", SWITCH, "cache large weights in a form that loads faster, beside the fetched models"
    )
    threads: int = _option(0, integer(0, 1024), "CPU threads of the model; 0 follows cores and CPU quota")
    engine: str | None = _option(
        None,
        ENGINE,
        "address of the API of an instance, or of a proxy before several, that judges in place of a model in "
        "this process",
    )
    engine_key_file: Path | None = _option(
        None, FILE, "file whose first line is the API key that is sent to --engine"
    )
    host: str = _option("0.0.0.0", HOST, "address the page and the API listen on")
    port: int = _option(7860, PORT, "port of the page and the API; 0 picks a free one")
    health_host: str = _option("0.0.0.0", HOST, "address the health API listens on")
    health_port: int = _option(8000, PORT, "port of the health API; 0 picks a free one")
    page: str = _option(
        "on",
        choice("on", "off", "open"),
        "the web page; off serves the API alone, open serves the page without a login beside API keys",
    )
    trusted_proxies: tuple[Network, ...] = _option(
        (), NETWORKS, "proxies in front of the page whose X-Forwarded-For header is trusted"
    )
    root_path: str = _option(
        "", ROOT_PATH, "path under which a proxy serves the page, such as /vqa, stripped by the proxy or not"
    )
    api_keys_file: Path | None = _option(
        None, FILE, "file of the API keys; with it, every question needs a key or a login (docs/api.md)"
    )
    page_password_file: Path | None = _option(
        None, FILE, "file whose first line is the password of the page; unset asks for none"
    )
    run_dir: Path = _option(ROOT, FOLDER, "directory of logs and run-time files")
    instance: int = _option(
        0, integer(0, 255), "number of this instance among several, with which the ids of its batches begin"
    )
    timeout: float = _option(15.0, seconds(0.01, 3600), "time limit of a request, from its arrival")
    cancel_grace: float = _option(
        5.0,
        seconds(0.01, 3600),
        "how long a cancelled computation may take to stop before it is reported as not stopping",
    )
    hang_limit: float = _option(
        60.0, seconds(0.1, 86400), "how long it may continue after that before the process counts as hung"
    )
    queue_size: int = _option(
        48,
        integer(1, 100000),
        "maximum number of waiting requests, three quarters of them from one client; more are answered busy",
    )
    max_batch: int = _option(
        0, integer(0, 1024), "maximum batch size; 0 depends on the device: 4 on a CPU, 32 on a GPU"
    )
    max_pixels: int = _option(
        64_000_000, integer(1, 170_000_000, "pixels"), "largest accepted picture, width times height"
    )
    max_bytes: int = _option(33_554_432, integer(1, 1_073_741_824, "bytes"), "largest accepted picture file")
    max_chars: int = _option(
        1000, integer(1, 100_000, "characters"), "longest accepted text; the model reads fewer characters"
    )
    language: str = _option(
        "auto",
        choice("auto", "any"),
        "auto refuses texts mostly in a script that the model's language does not use; any accepts all",
    )
    probe_interval: float = _option(
        60.0, seconds(0.05, 86400), "a probe runs when evidence is older than this", env="PROBE_INTERVAL"
    )
    probe_timeout: float = _option(15.0, seconds(0.01, 3600), "time limit of a probe")
    max_rss: int = _option(
        0, SIZE, "restart when the resident memory of the process and its readers stays above this"
    )
    max_gpu_memory: int = _option(
        0, SIZE, "restart when the GPU memory reserved by the process stays above this"
    )
    load_attempts: int = _option(3, integer(1, 100), "attempts to load the model")
    drain_delay: float = _option(
        0.0,
        seconds(0, 3600),
        "how long a stop first serves on while /readyz already answers 503, so that a load balancer sends no "
        "more",
    )
    stop_grace: float = _option(
        STOP_GRACE, seconds(0, 3600), "how long a stop waits for accepted requests to be answered"
    )
    ops: str = _option(
        "auto", choice("auto", "off"), "the page's operations tab, behind a password; off removes it"
    )
    ops_password: str | None = _option(
        None,
        PASSWORD,
        "password of the operations tab; unset generates one in the run directory",
        secret=True,
    )
    ops_password_file: Path | None = _option(
        None, FILE, "file whose first line is that password; safer than a variable, which others may read"
    )
    log_level: str = _option(
        "info",
        choice("debug", "info", "warning", "error"),
        "lowest level written to web_app.log; the doctor needs info",
    )
    log_format: str = _option(
        "text",
        choice("text", "json"),
        "form of web_app.log and the console; json has the same fields, one object per line",
    )
    log_max_bytes: int = _option(
        10_485_760, integer(1024, 1_073_741_824, "bytes"), "size at which a log file is rotated"
    )
    log_backups: int = _option(5, integer(1, 100), "rotated files kept of each log")
    otlp_endpoint: str | None = _option(
        None,
        URL,
        "OpenTelemetry collector that gets a trace of each request, such as http://localhost:4318; "
        "needs requirements-otel.txt",
    )

    @property
    def evidence_ttl(self) -> float:
        """Seconds after which evidence is stale: an interval and two full probes."""
        return self.probe_interval + 2 * self.probe_timeout

    @classmethod
    def from_args(
        cls,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        prog: str = "web_app.py",
        description: str = DESCRIPTION,
    ) -> Settings:
        """Read ``argv`` (without the program's name) and ``environ``. Raises SettingsError; ``--help`` prints
        and raises SystemExit(0)."""
        given = vars(_parser(prog, description).parse_args(list(argv)))
        values: dict[str, Any] = {}
        for name, option in options().items():
            if given[name] is not None and option.secret:
                raise SettingsError(
                    f"{flag(name)} is not a flag, since any user can list command lines.",
                    remedy=f"Set {option.env} or {option.env}_FILE.",
                )
            if given[name] is not None:
                values[name] = _read(option, given[name], flag(name))
            elif environ.get(option.env):
                values[name] = _read(option, environ[option.env], option.env)
        settings = cls(**values)
        settings._check_engine(values)
        settings._check_together()
        return settings

    def _check_engine(self, given: Mapping[str, object]) -> None:
        """``given`` are the fields that were set."""
        if self.engine is None:
            if self.engine_key_file is not None:
                raise SettingsError(
                    "--engine-key-file (OFA_ENGINE_KEY_FILE) needs --engine (OFA_ENGINE).",
                    remedy="Set the engine's address, or unset the key file.",
                )
            return
        if local := next((name for name in OF_THE_MODEL if name in given), None):
            raise SettingsError(
                f"--engine and {flag(local)} ({options()[local].env}) exclude each other.",
                remedy="The engine has its own model: unset one of them.",
            )
        if self.engine_key_file is not None:
            engine_key.read(self.engine_key_file)

    def _check_together(self) -> None:
        if self.port and self.port == self.health_port:
            raise SettingsError(
                f"--port and --health-port are both {self.port}.",
                remedy="Give the page and the health API different ports.",
            )
        if self.backend == "modelscope" and self.reference_python is None:
            raise SettingsError(
                "--backend modelscope needs --reference-python (OFA_REFERENCE_PYTHON).",
                remedy="Create the environment of requirements-modelscope.txt and pass its Python.",
            )
        if self.otlp_endpoint is not None and not _has_tracing():
            raise SettingsError(
                "--otlp-endpoint needs the OpenTelemetry packages, which are not installed.",
                remedy="Install requirements-otel.txt into this environment, or unset OFA_OTLP_ENDPOINT.",
            )
        self.read_ops_password()
        if self.read_page_password() is not None and self.page != "on":
            raise SettingsError(
                f"--page {self.page} and --page-password-file exclude each other.",
                remedy="Unset one of them.",
            )
        if self.api_keys_file is not None:
            api_keys.read(self.api_keys_file)

    @property
    def page_served(self) -> bool:
        """Whether there is a page. With API keys it needs a password, or to be declared open."""
        locked = self.page_password_file is not None or self.api_keys_file is None
        return self.page == "open" or (self.page == "on" and locked)

    def read_ops_password(self) -> str | None:
        """Return the operations tab's password from its variable or file. Raises SettingsError."""
        file = self.ops_password_file
        if file is None:
            return self.ops_password
        if self.ops_password is not None:
            raise SettingsError(
                "OFA_OPS_PASSWORD and OFA_OPS_PASSWORD_FILE are both set.", remedy="Unset one of them."
            )
        return _password(file, "--ops-password-file")

    def read_page_password(self) -> str | None:
        """Return the page's password, or None without one. Raises SettingsError."""
        file = self.page_password_file
        return None if file is None else _password(file, "--page-password-file")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message[:1].upper()}{message[1:]}.", remedy=f"See {self.prog} --help.")


def _has_tracing() -> bool:
    try:
        return all(map(importlib.util.find_spec, TRACING))
    except ModuleNotFoundError:  # a parent package
        return False


def options() -> dict[str, Option]:
    """Every field's option, in the order of the fields."""
    declared = {field.name: field.metadata["option"] for field in dataclasses.fields(Settings)}
    return {
        name: dataclasses.replace(option, env=option.env or f"OFA_{name.upper()}")
        for name, option in declared.items()
    }


def flag(name: str) -> str:
    """The flag of a field: ``health_port`` → ``--health-port``."""
    return "--" + name.replace("_", "-")


def removed(environ: Mapping[str, str]) -> list[str]:
    """The variables in ``environ`` that this version no longer reads."""
    return [name for name in REMOVED if name in environ]


def table() -> str:
    """The README's configuration table, in Markdown."""
    lines = ["| flag | variable | default | allowed | what it is |", "|---|---|---|---|---|"]
    for name, option in options().items():
        shown = _default(name)
        shown = shown if name == "run_dir" or shown == "unset" else f"`{shown}`"
        shown_flag = "–" if option.secret else f"`{flag(name)}`"
        cells = (shown_flag, f"`{option.env}`", shown, option.type.allowed, option.help)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        description=description,
        epilog="A flag wins over its environment variable, a variable over the default.",
        allow_abbrev=False,
    )
    for name, option in options().items():
        if option.secret:  # parsed so that the refusal does not repeat the value
            parser.add_argument(flag(name), nargs="?", const="", help=argparse.SUPPRESS)
            continue
        text = f"{option.help} (allowed: {option.type.allowed}; default: {_default(name)}; {option.env})"
        parser.add_argument(flag(name), metavar=option.type.metavar, help=text.replace("%", "%%"))
    return parser


def _password(file: Path, flag: str) -> str:
    """Return the first line of a password file. Raises SettingsError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The file of {flag} cannot be read: {type(error).__name__}.",
            remedy=f"Check {file}, or unset {flag}.",
        ) from error
    try:
        return str(PASSWORD.parse(lines[0].strip() if lines else ""))
    except ValueError:
        raise SettingsError(
            f"The first line of {file} is not allowed as a password. Allowed: {PASSWORD.allowed}."
        ) from None


def _read(option: Option, text: str, source: str) -> object:
    try:
        return option.type.parse(text)
    except (ValueError, OverflowError):
        hidden = option.secret or "@" in text  # an address may hold a password
        shown = source if hidden else f"{source}={text!r}"
        remedy = _SERVICE_LINKS if text.startswith("tcp://") else None
        raise SettingsError(
            f"{shown} is not allowed. Allowed: {option.type.allowed}.", remedy=remedy
        ) from None


def _default(name: str) -> str:
    default = getattr(Settings, name)
    if default is None or default in ((), ""):
        return "unset"
    if name == "run_dir":
        return "beside web_app.py"
    return f"{default:g}" if isinstance(default, float) else str(default)


if __name__ == "__main__":
    print(table())
