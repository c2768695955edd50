"""Find the columns of a list: by the names that the user gives, else by convention."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batch.rows import Columns, ListError
from service.contract.causes import ListCode

#: Names of each column; the first is preferred to the others, which exclude each other. Case, spaces and
#: hyphens do not matter.
NAMES: Final[Mapping[str, Sequence[str]]] = {
    "image": (
        *("image", "picture", "photo", "img", "file", "filename", "file_name", "path"),
        *("image_path", "image_file", "image_filename", "picture_path", "图片", "图像", "文件", "文件名"),
    ),
    "text": (
        *("text", "hypothesis", "sentence", "caption", "title", "description", "statement", "claim"),
        *("文本", "句子", "标题", "描述"),
    ),
    "premise": ("premise", "前提"),
    "id": ("id", "row_id", "pair_id", "pairid", "编号"),
}
_SHOWN: Final = 40  # columns named in an error
MAX_NAME: Final = 1000  # characters of a column's name


@dataclass(frozen=True, slots=True)
class Found:
    """The list's own names of the columns."""

    image: str
    text: str
    premise: str | None
    id: str | None


def find(names: Sequence[str], wanted: Columns) -> Found:
    """Find the columns among ``names``. Raises ListError: ``column_missing``, ``column_ambiguous``, and
    ``list_unreadable`` for a name that is too long."""
    if any(len(name) > MAX_NAME for name in names):
        raise ListError(
            f"The list has a column name of more than {MAX_NAME} characters.",
            code=ListCode.LIST_UNREADABLE,
            remedy="Begin with the names of the columns.",
        )
    premise, row_id = _find("premise", names, wanted.premise), _find("id", names, wanted.id)
    return Found(_needed("image", names, wanted.image), _needed("text", names, wanted.text), premise, row_id)


def recognised(names: Sequence[str], wanted: Columns) -> bool:
    """Whether ``names`` has the columns of a list."""
    try:
        find(names, wanted)
    except ListError as error:
        return error.code == ListCode.COLUMN_AMBIGUOUS
    return True


def _needed(what: str, names: Sequence[str], wanted: str | None) -> str:
    found = _find(what, names, wanted)
    if found is None:
        raise _error(ListCode.COLUMN_MISSING, f"The list has no column for the {what}.", what, names)
    return found


def _find(what: str, names: Sequence[str], wanted: str | None) -> str | None:
    """The one column for ``what``. Raises ListError."""
    if wanted is not None:
        exact = [name for name in names if name == wanted]
        found = exact or [name for name in names if _plain(name) == _plain(wanted)]
        if not found:
            message = f"The list does not have the column that --{what}-column names."
            raise _error(ListCode.COLUMN_MISSING, message, what, names)
    else:
        first = NAMES[what][0]
        found = [name for name in names if _plain(name) == first]
        found = found or [name for name in names if _plain(name) in NAMES[what]]
    if len(found) > 1:
        message = f"Several columns of the list could be the {what}."
        raise _error(ListCode.COLUMN_AMBIGUOUS, message, what, names)
    return found[0] if found else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _error(code: ListCode, message: str, what: str, names: Sequence[str]) -> ListError:
    return ListError(message, code=code, remedy=f"Name it with --{what}-column.", columns=names[:_SHOWN])
