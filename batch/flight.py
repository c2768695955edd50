"""A unit of rows on its way through the application, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from batch.records import Batch, Outcome, Unit
from service.contract.causes import Outcome as Ending
from service.contract.causes import Refusal, RowCode
from service.contract.errors import (
    DeviceLost,
    InputError,
    InvalidTexts,
    NoReader,
    NotFinite,
    OutOfMemory,
)
from service.contract.protocols import Submits
from service.contract.request import Verdict, VerdictFuture

#: Answers after which a row waits again.
_AGAIN = frozenset({*Refusal, Ending.ABANDONED})


class Flight:
    """``unit`` of ``batch``. ``landed`` is called once, by any thread, when all of its rows have ended."""

    def __init__(self, batch: Batch, unit: Unit, landed: Callable[[Flight], None]) -> None:
        self.batch = batch
        self.unit = unit
        self._landed = landed
        self._futures = [VerdictFuture() for _ in unit.positions]
        self._lock = threading.Lock()  # guards the next line
        self._left = len(self._futures)
        self._error: Exception | None = None

    def submit(self, application: Submits, open_picture: Callable[[], bytes]) -> None:
        """Open the picture and submit the rows; waits for the decoding."""
        try:
            if not self._futures[0].cancelled():
                application.submit_many(
                    open_picture(),
                    self.unit.texts,
                    self.unit.premise,
                    source="batch",
                    caller=self.batch.caller,
                    futures=self._futures,
                )
        except Exception as error:
            self._error = error
            self._landed(self)
            return
        for future in self._futures:
            future.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Stop its decoding or its computation at the next cancel point."""
        for future in self._futures:
            future.cancel()

    @property
    def unexpected(self) -> Exception | None:
        """An exception that only a bug can raise."""
        return None if isinstance(self._error, InputError) else self._error

    @property
    def refused(self) -> bool:
        """Whether the application did not take it now, or lost the device with it."""
        verdicts = [one.result() for one in self._futures if one.done() and not one.cancelled()]
        return any(_waits_again(one) or isinstance(one.error, DeviceLost) for one in verdicts)

    def outcomes(self) -> list[Outcome]:
        """How its rows ended, once it has landed. A row with which the device was lost has no outcome: the
        process ends with it."""
        places, error = enumerate(self.unit.positions), self._error
        if isinstance(error, InvalidTexts):
            # The message is that of the first text; one with another code is submitted again.
            refused = {index for index, code in error.errors if code == error.code}
            return [
                self._failed(position, error.code, error.sentence)
                if index in refused
                else self._again(position)
                for index, position in places
            ]
        if isinstance(error, InputError):
            return [self._failed(position, error.code, error.sentence) for _, position in places]
        if error is not None:
            text = f"Unexpected {type(error).__name__}."
            return [self._failed(position, RowCode.ERROR, text) for _, position in places]
        found = [self._outcome(position, self._futures[index]) for index, position in places]
        return [one for one in found if one is not None]

    def _ended(self, _: Future[Verdict]) -> None:
        with self._lock:
            self._left -= 1
            left = self._left
        if not left:
            self._landed(self)

    def _outcome(self, position: int, future: VerdictFuture) -> Outcome | None:
        if future.cancelled():
            return self._again(position)
        verdict = future.result()
        if verdict.reason is None:
            return Outcome(self.unit.batch, position, answer=verdict.as_dict())
        if _waits_again(verdict):
            return self._again(position)
        if isinstance(verdict.error, DeviceLost):
            return None
        error = "There is no verdict." if verdict.error is None else verdict.error.message
        late = verdict.reason == "timeout"
        may_pass = late or isinstance(verdict.error, OutOfMemory | NotFinite)
        code = RowCode.TIMEOUT if late else RowCode.ERROR
        return Outcome(self.unit.batch, position, code=code, error=error, may_pass=may_pass)

    def _again(self, position: int) -> Outcome:
        return Outcome(self.unit.batch, position)

    def _failed(self, position: int, code: str, error: str) -> Outcome:
        return Outcome(self.unit.batch, position, code=str(code), error=error)


def _waits_again(verdict: Verdict) -> bool:
    return verdict.code in _AGAIN or isinstance(verdict.error, NoReader)
