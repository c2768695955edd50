"""Exceptions of this package.

::

    OFAError (ValueError)
    ├── UnsupportedConfig   a configuration value is not supported
    ├── CheckpointError     the weight file is missing, damaged or of another format
    │   └── Misfit          its weights do not match the configuration
    ├── ImageError          a picture cannot be read
    └── TextError           a text cannot be judged
"""

from __future__ import annotations

from typing import Final

_SHOWN: Final = 80  # characters


def shown(value: object) -> str:
    """``repr`` of untrusted content, truncated."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class OFAError(ValueError):
    """Base of this package's exceptions."""


class UnsupportedConfig(OFAError):
    """A configuration field has a value that is not supported.

    Attributes:
        field: the file and the field's name.
        value: the unsupported value.
    """

    def __init__(self, field: str, value: object, supported: str) -> None:
        super().__init__(f"{field} = {shown(value)} is not supported: {supported}")
        self.field = field
        self.value = value


class CheckpointError(OFAError):
    """The weight file cannot be used."""


class Misfit(CheckpointError):
    """The keys, shapes or types of an intact weight file do not match the configuration."""


class ImageError(OFAError):
    """A picture cannot be read.

    Attributes:
        code: the cause as a code: ``no_image``, ``not_an_image``, ``image_unsupported``,
            ``image_bytes_too_large``, ``image_too_large``, ``image_truncated``, ``image_unreadable`` or
            ``too_slow_to_read``.
        facts: the figures in the message.
    """

    def __init__(self, message: str, code: str = "image_unreadable", **facts: int) -> None:
        super().__init__(message)
        self.code = code
        self.facts = facts


class TextError(OFAError):
    """The text cannot be judged: an unsupported or missing premise, or lone surrogates. ``code`` is
    stable."""

    def __init__(self, message: str, code: str = "no_text") -> None:
        super().__init__(message)
        self.code = code
