"""Value types of settings: how each is parsed, and which values it allows, in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from service.callers import networks


@dataclass(frozen=True, slots=True)
class ValueType:
    """``parse`` raises ValueError or OverflowError; ``allowed`` completes "Allowed: …"."""

    parse: Callable[[str], object]
    allowed: str
    metavar: str


def integer(low: int, high: int, unit: str = "") -> ValueType:
    return _number(int, low, high, unit)


def seconds(low: float, high: float) -> ValueType:
    return _number(float, low, high, "seconds")


def choice(*names: str) -> ValueType:
    return pattern("|".join(map(re.escape, names)), ", ".join(names), "|".join(names))


def pattern(pattern: str, allowed: str, metavar: str) -> ValueType:
    def parse(text: str) -> object:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return ValueType(parse, allowed, metavar)


def _number(cast: type[int | float], low: float, high: float, unit: str) -> ValueType:
    def parse(text: str) -> object:
        value = cast(text)
        if not low <= value <= high:  # also refuses nan
            raise ValueError
        return value

    noun, metavar = ("a whole number", "N") if cast is int else ("a number", "S")
    return ValueType(parse, f"{noun} from {low:g} to {high:.12g} {unit}".strip(), metavar)


def _size(text: str) -> object:
    found = re.fullmatch(r"(\d{1,18})([KMGT]?)(i?B)?", text, re.IGNORECASE)
    if not found:
        raise ValueError
    return int(found[1]) << 10 * " KMGT".index(found[2].upper() or " ")


def _folder(text: str) -> object:
    path = Path(text).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ValueError
    return path


def _engine(text: str) -> object:
    found = urlsplit(text)
    if found.port == 0 or not found.hostname:  # the port raises ValueError if it is not one
        raise ValueError
    found.hostname.encode("idna")  # UnicodeError is a ValueError, too
    secret = found.username is not None or found.password is not None
    odd = found.query or found.fragment or "?" in text or "#" in text or not text.isprintable()
    if found.scheme not in ("http", "https") or secret or odd or " " in text or "\\" in text:
        raise ValueError
    return text.rstrip("/")


PORT = integer(0, 65535)
HOST = pattern(r"[0-9A-Za-z._:%-]+", "a host name or an address, e.g. 127.0.0.1 or 0.0.0.0", "HOST")
DEVICE = pattern(r"auto|cpu|cuda(:\d{1,2})?", "auto, cpu, cuda, cuda:N", "auto|cpu|cuda[:N]")
MODEL = pattern(r"\S(.*\S)?", "demo, a folder, or a hub id such as owner/name", "MODEL")
WORD = pattern(r"\S+", "a word without spaces", "NAME")
SWITCH = choice("on", "off")
SIZE = ValueType(_size, "bytes, or a number with K, M, G or T (of 1024); 0 is off", "SIZE")
NETWORKS = ValueType(networks, "addresses and networks such as 10.0.0.0/8,::1, separated by commas", "NET,…")
ROOT_PATH = pattern(r"(/[A-Za-z0-9._~-]+)+", "a path that begins with / and does not end with it", "PATH")
URL = pattern(r"https?://\S+", "an http:// or https:// address", "URL")
ENGINE = ValueType(
    _engine, "an http:// or https:// address, also with a path, without user name, ? and #", "URL"
)
FOLDER = ValueType(_folder, "a folder, or a path where one can be created", "DIR")
PROGRAM = ValueType(lambda text: Path(text).expanduser(), "the path of a Python interpreter", "PATH")
FILE = ValueType(lambda text: Path(text).expanduser().absolute(), "the path of a file", "FILE")
PASSWORD = pattern(r"(?s).{8,1024}", "8 to 1024 characters", "")
