"""Which files make a model folder: one answer for a local folder, the hub's file list and the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from ofa import documents
from service.contract.errors import ModelNotFound, UnsupportedModel

CONFIGURATION = "configuration.json"
CARD = "card.json"
REQUIRED = (CONFIGURATION, "config.json", "vocab.json", "merges.txt")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In the order in which they are preferred; one of them is enough, and only one is fetched."""

_LONGEST_NAME: Final = 255  # bytes, of a path below the folder
_POINTER: Final = b"version https://git-lfs.github.com/spec/"

# Our tokenizer needs none of these, but ModelScope's own pipeline reads them when they are there, and
# the same folder must give the same answers in both.
COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def wanted(has: Callable[[str], bool], folder: Path | None = None) -> tuple[list[str], list[str]]:
    """Split what a model needs into ``(there, missing)``, given which names the source ``has``.

    ``folder`` is where configuration.json and card.json can be read once they are had: they name the
    answer file and the card's example pictures. Raises UnsupportedModel if configuration.json is not JSON.
    """
    weights = next((name for name in WEIGHTS if has(name)), None)
    needed = [*REQUIRED, weights or " or ".join(WEIGHTS)]
    extras = [CARD, *COMPANIONS]
    if folder is not None:
        needed += _answer_file(folder)
        extras += _card_pictures(folder)
    there = [name for name in dict.fromkeys([*needed, *extras]) if has(name)]
    return there, [name for name in needed if not has(name)]


def missing(folder: Path) -> list[str]:
    """What ``folder`` lacks to be a model folder. Raises UnsupportedModel as ``wanted`` does."""
    has_configuration = (folder / CONFIGURATION).is_file()
    return wanted(lambda name: (folder / name).is_file(), folder if has_configuration else None)[1]


def checked(folder: Path, name: str) -> Path:
    """``folder``, if it holds what a model needs; ``name`` is what to call it in the error."""
    try:
        pointers = _pointers(folder)
        lacking = [] if pointers else missing(folder)
    except PermissionError as error:
        raise ModelNotFound(
            f"{name} cannot be read: permission denied", remedy="Give this user the right to read it."
        ) from error
    if pointers:
        raise UnsupportedModel(
            f"{name} holds pointers of git-lfs in place of {', '.join(pointers)}",
            remedy="Run git lfs pull in that folder.",
        )
    if lacking:
        raise UnsupportedModel(
            f"{name} is not a model folder: it has no {', no '.join(lacking)}",
            remedy="Complete the folder, or name another with --model.",
        )
    return folder


def _pointers(folder: Path) -> list[str]:
    """The files that a clone without git-lfs leaves in place of the real ones."""
    weights = [name for name in WEIGHTS if (folder / name).is_file()][:1]
    return [name for name in (*REQUIRED, *weights) if _starts(folder / name, _POINTER)]


def _starts(path: Path, start: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _answer_file(folder: Path) -> Iterator[str]:
    try:
        configuration = documents.read_json(folder / CONFIGURATION)
    except ValueError as error:
        raise UnsupportedModel(f"{CONFIGURATION} of the model cannot be used: it is {error}") from error
    model = configuration.get("model") if isinstance(configuration, dict) else None
    # Whether a model may do without an answer file is for the network's own check to say, field by field.
    name = model.get("answer2label") if isinstance(model, dict) else None
    if isinstance(name, str) and name:
        if not _inside(name):
            raise UnsupportedModel(f"{CONFIGURATION}: model.answer2label names no file in the model's folder")
        yield PurePosixPath(name).as_posix()


def _card_pictures(folder: Path) -> Iterator[str]:
    """The card is for the page alone: whatever is wrong with it costs its pictures, never the model."""
    with suppress(OSError, ValueError):
        card = documents.read_json(folder / CARD)
        examples = card.get("examples") if isinstance(card, dict) else None
        for example in examples if isinstance(examples, list) else ():
            name = example.get("image") if isinstance(example, dict) else None
            if isinstance(name, str) and _inside(name):
                yield PurePosixPath(name).as_posix()


def _inside(name: str) -> bool:
    """Whether ``name`` can be that of a file below the folder, on any disk and on one line of a log."""
    path = PurePosixPath(name)
    return (
        name.isprintable()
        and len(name.encode()) <= _LONGEST_NAME
        and not path.is_absolute()
        and ".." not in path.parts
        and "\\" not in name
    )
