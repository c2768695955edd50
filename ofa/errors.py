"""What can go wrong between a model folder, a picture, a sentence and a verdict.

::

    OFAError (ValueError)
    ├── UnsupportedConfig   a field of the model's configuration that this code cannot honour
    ├── CheckpointError     the weight file is missing, damaged or no weight file
    │   └── Misfit          it is whole, and holds other weights than the configuration asks for
    ├── ImageError          a file that is no readable picture
    └── TextError           a text that cannot be judged
"""

from __future__ import annotations

from typing import Final

_SHOWN: Final = 80  # characters


def shown(value: object) -> str:
    """``repr`` of what a file holds, on one line and cut: it may hold anything."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class OFAError(ValueError):
    """Base of every error this package raises itself."""


class UnsupportedConfig(OFAError):
    """A configuration field with a value that would be computed wrongly, so it is refused.

    Attributes:
        field: name of the field, with the file it stands in.
        value: what the file says.
    """

    def __init__(self, field: str, value: object, wanted: str) -> None:
        super().__init__(f"{field} = {shown(value)} is not supported: {wanted}")
        self.field = field
        self.value = value


class CheckpointError(OFAError):
    """The weight file cannot be used."""


class Misfit(CheckpointError):
    """A whole weight file whose keys, shapes or types differ from what the configuration asks for."""


class ImageError(OFAError):
    """A picture that cannot be read.

    Attributes:
        code: why, in a word for programs: ``no_image``, ``not_an_image``, ``image_unsupported``,
            ``image_bytes_too_large``, ``image_too_large``, ``image_truncated``, ``image_unreadable`` or
            ``too_slow_to_read``.
        facts: the figures in the message.
    """

    def __init__(self, message: str, code: str = "image_unreadable", **facts: int) -> None:
        super().__init__(message)
        self.code = code
        self.facts = facts


class TextError(OFAError):
    """The text cannot be judged (a premise the prompt has no slot for, lone surrogates, ...)."""
