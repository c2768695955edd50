"""Judge one pair, or JSON lines on standard input: each is answered before the next is read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tqdm import tqdm

from batch import jsonlines
from batch.judging import go_on, known, refusal
from service.contract.calibration import Calibration
from service.contract.errors import DeviceLost
from service.contract.protocols import Model
from service.contract.request import Pair, Verdict
from service.intake import image as image_input
from service.intake import text
from service.settings import Settings

MAX_LINE: Final = 1 << 20  # bytes


class Pipe:
    """Answers lines with a loaded model."""

    def __init__(self, model: Model, settings: Settings, calibration: Calibration | None) -> None:
        self._model = model
        self._settings = settings
        self._calibration = calibration

    def run(self, pairs: Sequence[dict[str, Any]]) -> bool:
        """Answer ``pairs``, or without any each line of standard input; return whether any failed.

        Raises OSError, DeviceLost.
        """
        lines: Iterable[tuple[int, bytes | None]] = jsonlines.numbered(sys.stdin.buffer, MAX_LINE)
        if pairs:
            lines = [(number, json.dumps(pair).encode()) for number, pair in enumerate(pairs, 1)]
        answers = (self._answer(number, line) for number, line in lines)
        failed = False
        quiet = bool(pairs) or not sys.stderr.isatty()
        for answer in tqdm(answers, unit=" pairs", file=sys.stderr, disable=quiet):
            failed |= "error" in answer
            # A lone surrogate in a file name cannot be encoded in UTF-8; write it as \\udcff.
            line = json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace")
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
        return failed

    def _answer(self, number: int, line: bytes | None) -> dict[str, Any]:
        """The answer to one line; an error is an answer too, so that later lines are judged."""
        answer: dict[str, Any] = {"line": number}
        try:
            question = jsonlines.parse(line, MAX_LINE)
            jsonlines.check_id(question.get("id"))
            if "id" in question:
                answer["id"] = question["id"]
            if isinstance(question.get("image"), str):
                answer["image"] = question["image"]
            return answer | self._judge(question).as_dict()
        except DeviceLost:
            raise
        except Exception as error:  # such as MemoryError: only this line fails
            return answer | refusal(known(error))

    def _judge(self, question: dict[str, Any]) -> Verdict:
        """Raises ServiceError, MemoryError."""
        settings = self._settings
        language = self._model.language if settings.language == "auto" else None
        texts = text.prepare(question.get("text"), question.get("premise"), settings.max_chars, language)
        picture = image_input.load(
            question.get("image"),
            side=self._model.side(),
            max_bytes=settings.max_bytes,
            max_pixels=settings.max_pixels,
        )
        (scores,) = self._model.judge([Pair(picture.image, texts.hypothesis, texts.premise)], go_on)
        assert scores is not None  # only a model that was told to defer leaves one out
        return Verdict.of(scores, duration=0.0, device=self._model.device, calibration=self._calibration)
