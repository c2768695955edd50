"""One frozen Settings from flags and environment; the only place where the environment is read.

A flag wins over its variable, a variable over the default; an empty variable counts as unset. Each option
is described once, beside its field: the parser, ``--help`` and the documentation's table come from there
(``python -m service.settings`` prints the table).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn, get_type_hints

from service.callers import Network
from service.contract.errors import SettingsError
from service.contract.times import LONGEST_PAUSE, STOP_GRACE
from service.kinds import (
    DEVICE,
    FILE,
    FOLDER,
    HOST,
    MODEL,
    NETWORKS,
    PASSWORD,
    PORT,
    PROGRAM,
    ROOT_PATH,
    URL,
    WORD,
    Kind,
    choice,
    integer,
    seconds,
    size,
)

ROOT = Path(__file__).resolve().parent.parent
DESCRIPTION = "Judge whether a picture shows what a sentence says: Yes, No or Maybe."
SERVICE_LINKS = (
    "Kubernetes sets this variable for a Service of that name: put enableServiceLinks: false into the pod's "
    "spec, or give the Service another name."
)
DEFAULT_MODEL = "iic/ofa_visual-entailment_snli-ve_large_en"


@dataclass(frozen=True, slots=True)
class Option:
    """What the command line and the documentation say about a field. A ``secret`` has no flag, since
    everybody on a machine can read its processes' command lines, and is shown nowhere."""

    env: str
    kind: Kind
    help: str
    secret: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a running instance was told; seconds, bytes, pixels and characters as named."""

    model: Annotated[
        str, Option("OFA_MODEL", MODEL, "the model: 'demo', a folder in ModelScope's format, or a hub id")
    ] = DEFAULT_MODEL
    revision: Annotated[
        str | None,
        Option(
            "OFA_MODEL_REVISION",
            WORD,
            "the hub revision to pin; unset keeps what was fetched, or fetches the newest",
        ),
    ] = None
    cache_dir: Annotated[
        Path | None,
        Option(
            "MODELSCOPE_CACHE", FOLDER, "where fetched models are kept; unset leaves it to the hub client"
        ),
    ] = None
    hub_endpoint: Annotated[
        str | None, Option("MODELSCOPE_ENDPOINT", URL, "another address of the model hub")
    ] = None
    verify: Annotated[
        str,
        Option(
            "OFA_VERIFY",
            choice("quick", "full"),
            "how a local copy is checked: sizes and times, or every checksum",
        ),
    ] = "quick"
    backend: Annotated[
        str,
        Option(
            "OFA_BACKEND",
            choice("native", "modelscope"),
            "our own network, or ModelScope's pipeline in a child process",
        ),
    ] = "native"
    reference_python: Annotated[
        Path | None,
        Option(
            "OFA_REFERENCE_PYTHON",
            PROGRAM,
            "the Python that has ModelScope's dependencies, for --backend modelscope",
        ),
    ] = None
    device: Annotated[
        str, Option("OFA_DEVICE", DEVICE, "where to compute; auto takes CUDA when there is one")
    ] = "auto"
    dtype: Annotated[
        str,
        Option(
            "OFA_DTYPE",
            choice("auto", "fp32", "bf16", "fp16"),
            "the precision; auto is bf16 where the hardware multiplies it, else fp32 (fp16 on older GPUs)",
        ),
    ] = "auto"
    precision_guard: Annotated[
        str,
        Option(
            "OFA_PRECISION_GUARD",
            choice("on", "off"),
            "whether close calls of a precision below fp32 are decided in fp32",
        ),
    ] = "on"
    converted_cache: Annotated[
        str,
        Option(
            "OFA_CONVERTED_CACHE",
            choice("on", "off"),
            "whether large weights are kept in a form that starts fast, beside the fetched models",
        ),
    ] = "on"
    threads: Annotated[
        int, Option("OFA_THREADS", integer(0, 1024), "CPU threads of the model; 0 leaves it to torch")
    ] = 0
    host: Annotated[str, Option("OFA_HOST", HOST, "the address the page listens on")] = "0.0.0.0"
    port: Annotated[int, Option("OFA_PORT", PORT, "the page's port; 0 takes a free one")] = 7860
    health_host: Annotated[str, Option("OFA_HEALTH_HOST", HOST, "the address the health API listens on")] = (
        "0.0.0.0"
    )
    health_port: Annotated[
        int, Option("OFA_HEALTH_PORT", PORT, "the health API's port; 0 takes a free one")
    ] = 8000
    trusted_proxies: Annotated[
        tuple[Network, ...],
        Option(
            "OFA_TRUSTED_PROXIES",
            NETWORKS,
            "the proxies in front of the page, whose X-Forwarded-For names the caller",
        ),
    ] = ()
    root_path: Annotated[
        str,
        Option(
            "OFA_ROOT_PATH",
            ROOT_PATH,
            "the path under which a proxy serves the page, such as /vqa, whether it takes it off or not",
        ),
    ] = ""
    run_dir: Annotated[
        Path, Option("OFA_RUN_DIR", FOLDER, "where logs and run-time files go; beside web_app.py unless set")
    ] = ROOT
    timeout: Annotated[
        float, Option("OFA_TIMEOUT", seconds(0.01, 3600), "the time limit of a request, from its arrival")
    ] = 15.0
    cancel_grace: Annotated[
        float,
        Option(
            "OFA_CANCEL_GRACE",
            seconds(0.01, 3600),
            "how long a cancelled computation may take to stop before it counts as orphaned",
        ),
    ] = 5.0
    hang_limit: Annotated[
        float,
        Option(
            "OFA_HANG_LIMIT",
            seconds(0.1, 86400),
            "how long it may go on after that limit before the process counts as hung",
        ),
    ] = 60.0
    queue_size: Annotated[
        int, Option("OFA_QUEUE_SIZE", integer(1, 100000), "requests that may wait; more are answered busy")
    ] = 32
    max_batch: Annotated[
        int,
        Option(
            "OFA_MAX_BATCH",
            integer(0, 1024),
            "requests computed together at most; 0 goes by the device, 4 on a CPU and 32 on a GPU",
        ),
    ] = 0
    batch_wait: Annotated[
        float,
        Option(
            "OFA_BATCH_WAIT",
            seconds(0, 1),
            "how long callers who were answered together may be waited for; who asks alone never waits",
        ),
    ] = 0.005
    max_pixels: Annotated[
        int,
        Option(
            "OFA_MAX_PIXELS",
            integer(1, 170_000_000, "pixels"),
            "the largest picture accepted, width times height",
        ),
    ] = 64_000_000
    max_bytes: Annotated[
        int, Option("OFA_MAX_BYTES", integer(1, 1_073_741_824, "bytes"), "the largest picture file accepted")
    ] = 33_554_432
    max_chars: Annotated[
        int,
        Option(
            "OFA_MAX_CHARS",
            integer(1, 100_000, "characters"),
            "the longest text accepted; the model itself reads fewer",
        ),
    ] = 1000
    probe_interval: Annotated[
        float, Option("PROBE_INTERVAL", seconds(0.05, 86400), "evidence older than this starts a probe")
    ] = 60.0
    probe_timeout: Annotated[
        float, Option("OFA_PROBE_TIMEOUT", seconds(0.01, 3600), "the time limit of a probe")
    ] = 15.0
    golden_interval: Annotated[
        float,
        Option(
            "OFA_GOLDEN_INTERVAL",
            seconds(0.05, 86400),
            "a probe runs this often even under traffic, to compare its label",
        ),
    ] = 300.0
    trial_pause: Annotated[
        float,
        Option(
            "OFA_TRIAL_PAUSE",
            seconds(0.05, 300),
            "pause before the GPU is tried again after its memory ran out; it doubles, up to 300 s",
        ),
    ] = 5.0
    max_rss: Annotated[
        int,
        Option(
            "OFA_MAX_RSS",
            size(),
            "the process restarts when its resident memory, its readers' included, stays above this",
        ),
    ] = 0
    max_gpu_memory: Annotated[
        int,
        Option(
            "OFA_MAX_GPU_MEMORY",
            size(),
            "the same for the GPU memory that it has reserved",
        ),
    ] = 0
    load_attempts: Annotated[
        int, Option("OFA_LOAD_ATTEMPTS", integer(1, 100), "attempts to load the model")
    ] = 3
    load_pause: Annotated[
        float,
        Option(
            "OFA_LOAD_PAUSE",
            seconds(0, LONGEST_PAUSE),
            f"the pause after the first failed attempt; it doubles each time, up to {LONGEST_PAUSE:g} s",
        ),
    ] = 5.0
    stop_grace: Annotated[
        float, Option("OFA_STOP_GRACE", seconds(0, 3600), "how long a stop waits for accepted requests")
    ] = STOP_GRACE
    ops: Annotated[
        str,
        Option(
            "OFA_OPS",
            choice("auto", "off"),
            "the page's operations tab, behind its password; off: it is not there",
        ),
    ] = "auto"
    ops_password: Annotated[
        str | None,
        Option(
            "OFA_OPS_PASSWORD",
            PASSWORD,
            "the password of the operations tab; one is made in the run directory unless set",
            secret=True,
        ),
    ] = dataclasses.field(default=None, repr=False)
    ops_password_file: Annotated[
        Path | None,
        Option(
            "OFA_OPS_PASSWORD_FILE",
            FILE,
            "the same, as the first line of a file; better, since a process's variables can be read",
        ),
    ] = None
    log_level: Annotated[
        str,
        Option(
            "OFA_LOG_LEVEL",
            choice("debug", "info", "warning", "error"),
            "the least severe lines in web_app.log; the doctor needs info",
        ),
    ] = "info"
    log_max_bytes: Annotated[
        int,
        Option(
            "OFA_LOG_MAX_BYTES", integer(1024, 1_073_741_824, "bytes"), "a log file is rotated at this size"
        ),
    ] = 10_485_760
    log_backups: Annotated[
        int, Option("OFA_LOG_BACKUPS", integer(1, 100), "rotated log files kept of each log")
    ] = 5

    @property
    def evidence_ttl(self) -> float:
        """Seconds after which evidence is stale: the next probe has had its full time, twice."""
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
        """Settings from ``argv`` (without the program's name) and ``environ``. Raises SettingsError;
        ``--help`` prints and raises SystemExit(0) as argparse does."""
        given = vars(_parser(prog, description).parse_args(list(argv)))
        values: dict[str, object] = {}
        for name, option in options().items():
            if given[name] is not None and option.secret:
                raise SettingsError(
                    f"{flag(name)} is no flag: everybody on a machine can read its command lines.",
                    remedy=f"Set {option.env} or {option.env}FILE.",
                )
            if given[name] is not None:
                values[name] = _read(option, given[name], flag(name))
            elif environ.get(option.env):
                values[name] = _read(option, environ[option.env], option.env)
        settings = cls(**values)  # type: ignore[arg-type]  # each value was read by its field's own kind
        settings._check_together()
        return settings

    def _check_together(self) -> None:
        if self.port and self.port == self.health_port:
            raise SettingsError(
                f"--port and --health-port are both {self.port}.",
                remedy="Give the page and the health API two ports.",
            )
        if self.backend == "modelscope" and self.reference_python is None:
            raise SettingsError(
                "--backend modelscope needs --reference-python (OFA_REFERENCE_PYTHON).",
                remedy="Make the environment of requirements-modelscope.txt and give the path of its Python.",
            )
        self.read_ops_password()

    def read_ops_password(self) -> str | None:
        """The operations tab's password, from wherever it was said to be. Raises SettingsError."""
        file = self.ops_password_file
        if file is None or self.ops_password is not None:
            if file is not None:
                raise SettingsError("OFA_OPS_PASSWORD and a file with a password are both set.")
            return self.ops_password
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"The file with the operations password cannot be read: {type(error).__name__}.",
                remedy=f"Check {file}, or unset --ops-password-file.",
            ) from error
        kind = options()["ops_password"].kind
        try:
            return str(kind.parse(lines[0].strip() if lines else ""))
        except ValueError:
            raise SettingsError(
                f"The first line of {file} is not allowed as a password. Allowed: {kind.allowed}."
            ) from None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message[:1].upper()}{message[1:]}.", remedy=f"See {self.prog} --help.")


def options() -> dict[str, Option]:
    """Every field's option, in the order of the fields."""
    hints = get_type_hints(Settings, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in dataclasses.fields(Settings)}


def flag(name: str) -> str:
    """The flag of a field: ``health_port`` → ``--health-port``."""
    return "--" + name.replace("_", "-")


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        description=description,
        epilog="A flag wins over its environment variable, a variable over the default.",
        allow_abbrev=False,
    )
    for name, option in options().items():
        if option.secret:  # taken, only to be refused without repeating what follows it
            parser.add_argument(flag(name), nargs="?", const="", help=argparse.SUPPRESS)
            continue
        told = f"{option.help} (allowed: {option.kind.allowed}; default: {_default(name)}; {option.env})"
        parser.add_argument(flag(name), metavar=option.kind.metavar, help=told.replace("%", "%%"))
    return parser


def _read(option: Option, text: str, source: str) -> object:
    try:
        return option.kind.parse(text)
    except (ValueError, OverflowError):
        said = source if option.secret else f"{source}={text!r}"
        remedy = SERVICE_LINKS if text.startswith("tcp://") else None
        raise SettingsError(
            f"{said} is not allowed. Allowed: {option.kind.allowed}.", remedy=remedy
        ) from None


def _default(name: str) -> str:
    default = getattr(Settings, name)
    if default is None or default in ((), ""):
        return "unset"
    if name == "run_dir":
        return "beside web_app.py"
    return f"{default:g}" if isinstance(default, float) else str(default)


def table() -> str:
    """The documentation's configuration table, in Markdown."""
    lines = ["| flag | variable | default | allowed | what it is |", "|---|---|---|---|---|"]
    for name, option in options().items():
        shown = _default(name)
        shown = shown if name == "run_dir" or shown == "unset" else f"`{shown}`"
        shown_flag = "–" if option.secret else f"`{flag(name)}`"
        cells = (shown_flag, f"`{option.env}`", shown, option.kind.allowed, option.help)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
