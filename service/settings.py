"""One frozen Settings from flags and environment; the only place where the environment is read.

A flag wins over its variable, a variable over the default; an empty variable counts as unset. Each option
is described once, beside its field: the parser, ``--help`` and the documentation's table come from there
(``python -m service.settings`` prints the table).
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn, get_type_hints

from service.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_MODEL = "iic/ofa_visual-entailment_snli-ve_large_en"


@dataclass(frozen=True, slots=True)
class Kind:
    """How a value is read from text, and what is allowed, in words."""

    parse: Callable[[str], object]
    allowed: str
    metavar: str


def _number(cast: type[int | float], low: float, high: float, unit: str) -> Kind:
    def parse(text: str) -> object:
        value = cast(text)
        if not low <= value <= high:  # also refuses nan
            raise ValueError
        return value

    noun = "a whole number" if cast is int else "a number"
    return Kind(
        parse, f"{noun} from {low:g} to {high:.12g}{' ' + unit if unit else ''}", "N" if cast is int else "S"
    )


def _integer(low: int, high: int, unit: str = "") -> Kind:
    return _number(int, low, high, unit)


def _seconds(low: float, high: float) -> Kind:
    return _number(float, low, high, "seconds")


def _size() -> Kind:
    def parse(text: str) -> object:
        found = re.fullmatch(r"(\d{1,18})([KMGT]?)(i?B)?", text, re.IGNORECASE)
        if not found:
            raise ValueError
        return int(found[1]) << 10 * " KMGT".index(found[2].upper() or " ")

    return Kind(parse, "bytes, or a number with K, M, G or T (of 1024); 0 is off", "SIZE")


def _choice(*names: str) -> Kind:
    def parse(text: str) -> object:
        if text not in names:
            raise ValueError
        return text

    return Kind(parse, ", ".join(names), "|".join(names))


def _pattern(pattern: str, allowed: str, metavar: str) -> Kind:
    def parse(text: str) -> object:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return Kind(parse, allowed, metavar)


def _run_dir(text: str) -> object:
    path = Path(text).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ValueError
    return path


_PORT = _integer(0, 65535)
_HOST = _pattern(r"[0-9A-Za-z._:%-]+", "a host name or an address, e.g. 127.0.0.1 or 0.0.0.0", "HOST")
_DEVICE = _pattern(r"auto|cpu|cuda(:\d{1,2})?", "auto, cpu, cuda, cuda:N", "auto|cpu|cuda[:N]")
_MODEL = _pattern(r"\S(.*\S)?", "demo, a folder, or a hub id such as owner/name", "MODEL")
_WORD = _pattern(r"\S+", "a word without spaces", "NAME")
_URL = _pattern(r"https?://\S+", "an http:// or https:// address", "URL")
_FOLDER = Kind(_run_dir, "a folder, or a path where one can be made", "DIR")
_PROGRAM = Kind(lambda text: Path(text).expanduser(), "the path of a Python interpreter", "PATH")


@dataclass(frozen=True, slots=True)
class Option:
    """What the command line and the documentation say about a field."""

    env: str
    kind: Kind
    help: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a running instance was told; seconds, bytes, pixels and characters as named."""

    model: Annotated[
        str, Option("OFA_MODEL", _MODEL, "the model: 'demo', a folder in ModelScope's format, or a hub id")
    ] = DEFAULT_MODEL
    revision: Annotated[
        str | None,
        Option(
            "OFA_MODEL_REVISION",
            _WORD,
            "the hub revision to pin; unset keeps what was fetched, or fetches the newest",
        ),
    ] = None
    cache_dir: Annotated[
        Path | None,
        Option(
            "MODELSCOPE_CACHE", _FOLDER, "where fetched models are kept; unset leaves it to the hub client"
        ),
    ] = None
    hub_endpoint: Annotated[
        str | None, Option("MODELSCOPE_ENDPOINT", _URL, "another address of the model hub")
    ] = None
    verify: Annotated[
        str,
        Option(
            "OFA_VERIFY",
            _choice("quick", "full"),
            "how a local copy is checked: sizes and times, or every checksum",
        ),
    ] = "quick"
    backend: Annotated[
        str,
        Option(
            "OFA_BACKEND",
            _choice("native", "modelscope"),
            "our own network, or ModelScope's pipeline in a child process",
        ),
    ] = "native"
    reference_python: Annotated[
        Path | None,
        Option(
            "OFA_REFERENCE_PYTHON",
            _PROGRAM,
            "the Python that has ModelScope's dependencies, for --backend modelscope",
        ),
    ] = None
    device: Annotated[
        str, Option("OFA_DEVICE", _DEVICE, "where to compute; auto takes CUDA when there is one")
    ] = "auto"
    dtype: Annotated[
        str, Option("OFA_DTYPE", _choice("auto", "fp32", "bf16", "fp16"), "the precision; auto is fp32")
    ] = "auto"
    threads: Annotated[
        int, Option("OFA_THREADS", _integer(0, 1024), "CPU threads of the model; 0 leaves it to torch")
    ] = 0
    host: Annotated[str, Option("OFA_HOST", _HOST, "the address the page listens on")] = "0.0.0.0"
    port: Annotated[int, Option("OFA_PORT", _PORT, "the page's port; 0 takes a free one")] = 7860
    health_host: Annotated[str, Option("OFA_HEALTH_HOST", _HOST, "the address the health API listens on")] = (
        "0.0.0.0"
    )
    health_port: Annotated[
        int, Option("OFA_HEALTH_PORT", _PORT, "the health API's port; 0 takes a free one")
    ] = 8000
    run_dir: Annotated[
        Path, Option("OFA_RUN_DIR", _FOLDER, "where logs and run-time files go; beside web_app.py unless set")
    ] = ROOT
    timeout: Annotated[
        float, Option("OFA_TIMEOUT", _seconds(0.01, 3600), "the time limit of a request, from its arrival")
    ] = 15.0
    cancel_grace: Annotated[
        float,
        Option(
            "OFA_CANCEL_GRACE",
            _seconds(0.01, 3600),
            "how long a cancelled computation may take to stop before it counts as orphaned",
        ),
    ] = 5.0
    hang_limit: Annotated[
        float,
        Option(
            "OFA_HANG_LIMIT",
            _seconds(0.1, 86400),
            "how long it may go on after that limit before the process counts as hung",
        ),
    ] = 60.0
    queue_size: Annotated[
        int, Option("OFA_QUEUE_SIZE", _integer(1, 100000), "requests that may wait; more are answered busy")
    ] = 32
    max_batch: Annotated[
        int,
        Option(
            "OFA_MAX_BATCH",
            _integer(0, 1024),
            "requests computed together at most; 0 goes by the device, 4 on a CPU and 32 on a GPU",
        ),
    ] = 0
    batch_wait: Annotated[
        float,
        Option(
            "OFA_BATCH_WAIT",
            _seconds(0, 1),
            "how long callers who were answered together may be waited for; who asks alone never waits",
        ),
    ] = 0.005
    max_pixels: Annotated[
        int,
        Option(
            "OFA_MAX_PIXELS",
            _integer(1, 170_000_000, "pixels"),
            "the largest picture accepted, width times height",
        ),
    ] = 64_000_000
    max_bytes: Annotated[
        int, Option("OFA_MAX_BYTES", _integer(1, 1_073_741_824, "bytes"), "the largest picture file accepted")
    ] = 33_554_432
    max_chars: Annotated[
        int,
        Option(
            "OFA_MAX_CHARS",
            _integer(1, 100_000, "characters"),
            "the longest text accepted; the model itself reads fewer",
        ),
    ] = 1000
    probe_interval: Annotated[
        float, Option("PROBE_INTERVAL", _seconds(0.05, 86400), "evidence older than this starts a probe")
    ] = 60.0
    probe_timeout: Annotated[
        float, Option("OFA_PROBE_TIMEOUT", _seconds(0.01, 3600), "the time limit of a probe")
    ] = 15.0
    golden_interval: Annotated[
        float,
        Option(
            "OFA_GOLDEN_INTERVAL",
            _seconds(0.05, 86400),
            "a probe runs this often even under traffic, to compare its label",
        ),
    ] = 300.0
    trial_pause: Annotated[
        float,
        Option(
            "OFA_TRIAL_PAUSE",
            _seconds(0.05, 300),
            "pause before the GPU is tried again after its memory ran out; it doubles, up to 300 s",
        ),
    ] = 5.0
    max_rss: Annotated[
        int,
        Option(
            "OFA_MAX_RSS",
            _size(),
            "the process restarts when its resident memory stays above this",
        ),
    ] = 0
    max_gpu_memory: Annotated[
        int,
        Option(
            "OFA_MAX_GPU_MEMORY",
            _size(),
            "the same for the GPU memory that it has reserved",
        ),
    ] = 0
    load_attempts: Annotated[
        int, Option("OFA_LOAD_ATTEMPTS", _integer(1, 100), "attempts to load the model")
    ] = 3
    load_pause: Annotated[
        float,
        Option(
            "OFA_LOAD_PAUSE",
            _seconds(0, 3600),
            "the pause after the first failed attempt; it doubles each time",
        ),
    ] = 5.0
    stop_grace: Annotated[
        float, Option("OFA_STOP_GRACE", _seconds(0, 3600), "how long a stop waits for accepted requests")
    ] = 20.0
    log_max_bytes: Annotated[
        int,
        Option(
            "OFA_LOG_MAX_BYTES", _integer(1024, 1_073_741_824, "bytes"), "a log file is rotated at this size"
        ),
    ] = 10_485_760
    log_backups: Annotated[
        int, Option("OFA_LOG_BACKUPS", _integer(1, 100), "rotated log files kept of each log")
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
        description: str = "Judge whether a picture shows what a sentence says: Yes, No or Maybe.",
    ) -> Settings:
        """Settings from ``argv`` (without the program's name) and ``environ``. Raises SettingsError;
        ``--help`` prints and raises SystemExit(0) as argparse does."""
        given = vars(_parser(prog, description).parse_args(list(argv)))
        values: dict[str, object] = {}
        for name, option in options().items():
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
        told = f"{option.help} (allowed: {option.kind.allowed}; default: {_default(name)}; {option.env})"
        parser.add_argument(flag(name), metavar=option.kind.metavar, help=told.replace("%", "%%"))
    return parser


def _read(option: Option, text: str, source: str) -> object:
    try:
        return option.kind.parse(text)
    except (ValueError, OverflowError):
        raise SettingsError(f"{source}={text!r} is not allowed. Allowed: {option.kind.allowed}.") from None


def _default(name: str) -> str:
    default = getattr(Settings, name)
    if default is None:
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
        cells = (f"`{flag(name)}`", f"`{option.env}`", shown, option.kind.allowed, option.help)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
