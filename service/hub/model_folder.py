"""The files of a model folder: one definition for local folders, the hub's file list and the cache."""

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
"""In order of preference; one is enough, and only one is fetched."""

_LONGEST_NAME: Final = 255  # bytes, of a path below the folder
_POINTER: Final = b"version https://git-lfs.github.com/spec/"

# Unused by our tokenizer. ModelScope's pipeline reads them if present, and must give the same answers.
COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def select(has: Callable[[str], bool], folder: Path | None = None) -> tuple[list[str], list[str]]:
    """Return the names to fetch and the required names that are missing, given which names a source ``has``.

    ``folder`` holds configuration.json and card.json once fetched: they name the answer file and the card's
    example pictures. Raises UnsupportedModel if configuration.json is not JSON.
    """
    found = next((name for name in WEIGHTS if has(name)), None)
    needed = [*REQUIRED, found or " or ".join(WEIGHTS)]
    extras = [CARD, *COMPANIONS]
    if folder is not None:
        needed += _answer_file(folder)
        extras += _card_pictures(folder)
    there = [name for name in dict.fromkeys([*needed, *extras]) if has(name)]
    return there, [name for name in needed if not has(name)]


def weights(folder: Path) -> Path:
    """Return the weights file that the loader takes; in a folder without one, the last name it tries."""
    return next((path for path in map(folder.joinpath, WEIGHTS) if path.is_file()), folder / WEIGHTS[-1])


def missing(folder: Path) -> list[str]:
    """The required names that ``folder`` lacks. Raises UnsupportedModel as ``select`` does."""
    has_configuration = (folder / CONFIGURATION).is_file()
    return select(lambda name: (folder / name).is_file(), folder if has_configuration else None)[1]


def checked(folder: Path, name: str) -> Path:
    """Return ``folder`` if it is complete. ``name`` denotes it in errors.

    Raises ModelNotFound and UnsupportedModel.
    """
    try:
        pointers = _pointers(folder)
        lacking = [] if pointers else missing(folder)
    except PermissionError as error:
        raise ModelNotFound(
            f"{name} cannot be read: permission denied", remedy="Give this user read permission."
        ) from error
    if pointers:
        raise UnsupportedModel(
            f"{name} holds git-lfs pointers instead of {', '.join(pointers)}",
            remedy="Run git lfs pull in that folder.",
        )
    if lacking:
        raise UnsupportedModel(
            f"{name} is not a model folder: missing {', '.join(lacking)}",
            remedy="Add the missing files, or choose another model with --model.",
        )
    return folder


def _pointers(folder: Path) -> list[str]:
    """Files that are git-lfs pointers, as a clone without git-lfs leaves them."""
    return [name for name in (*REQUIRED, weights(folder).name) if _starts(folder / name, _POINTER)]


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
    # Whether the field may be absent is checked by ofa.config.
    name = model.get("answer2label") if isinstance(model, dict) else None
    if isinstance(name, str) and name:
        if not _inside(name):
            raise UnsupportedModel(
                f"{CONFIGURATION}: model.answer2label is not the name of a file in the model folder"
            )
        yield PurePosixPath(name).as_posix()


def _card_pictures(folder: Path) -> Iterator[str]:
    """The card's example pictures; none if the card is malformed, since only the page uses it."""
    with suppress(OSError, ValueError):
        card = documents.read_json(folder / CARD)
        examples = card.get("examples") if isinstance(card, dict) else None
        for example in examples if isinstance(examples, list) else ():
            name = example.get("image") if isinstance(example, dict) else None
            if isinstance(name, str) and _inside(name):
                yield PurePosixPath(name).as_posix()


def _inside(name: str) -> bool:
    """Whether ``name`` is a path below the folder that is valid on any disk and in a log line."""
    path = PurePosixPath(name)
    return (
        name.isprintable()
        and len(name.encode()) <= _LONGEST_NAME
        and not path.is_absolute()
        and ".." not in path.parts
        and "\\" not in name
    )
