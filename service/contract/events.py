"""Who counts what happens. The parts of the service tell it; it tells nobody.

The methods of ``Observer`` do nothing, so it stands wherever nobody counts. Those who overwrite them take
microseconds, never raise, and may be called by any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from service.contract.errors import ServiceError
from service.contract.request import Request, RequestTiming, Verdict

Stage = Literal["decoding", "waiting", "computing"]


class Observer:
    """Hears of everything that is counted. Times are seconds."""

    def refused(self, request: Request, error: ServiceError, seconds: float) -> None:
        """A request was not accepted; of its texts and its picture it holds what is known."""

    def ended(self, request: Request, verdict: Verdict, timing: RequestTiming) -> None:
        """An accepted request got its answer, or the reason why there is none."""

    def timed_out(self, request: Request, stage: Stage) -> None:
        """Its time ran out; what it was answered is told by ``ended`` or ``refused``."""

    def batched(self, requests: Sequence[Request]) -> None:
        """These are computed together from now on."""

    def orphaned(self) -> None:
        """A cancelled computation goes on."""

    def out_of_memory(self, then: str) -> None:
        """A computation ran out of memory; ``then`` names the step that is tried next."""

    def moved(self, here: str, there: str) -> None:
        """The model computes on device ``there`` from now on, no longer on ``here``."""

    def load_attempted(self, outcome: str, seconds: float) -> None:
        """An attempt to load the model ended: ``loaded``, or an error's code."""

    def probed(self, outcome: str, seconds: float) -> None:
        """A probe ended: success, unstable, timeout, error, or the reason why none could be run."""


UNOBSERVED = Observer()


class Observers(Observer):
    """Several, each told in turn."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def refused(self, request: Request, error: ServiceError, seconds: float) -> None:
        for one in self._observers:
            one.refused(request, error, seconds)

    def ended(self, request: Request, verdict: Verdict, timing: RequestTiming) -> None:
        for one in self._observers:
            one.ended(request, verdict, timing)

    def timed_out(self, request: Request, stage: Stage) -> None:
        for one in self._observers:
            one.timed_out(request, stage)

    def batched(self, requests: Sequence[Request]) -> None:
        for one in self._observers:
            one.batched(requests)

    def orphaned(self) -> None:
        for one in self._observers:
            one.orphaned()

    def out_of_memory(self, then: str) -> None:
        for one in self._observers:
            one.out_of_memory(then)

    def moved(self, here: str, there: str) -> None:
        for one in self._observers:
            one.moved(here, there)

    def load_attempted(self, outcome: str, seconds: float) -> None:
        for one in self._observers:
            one.load_attempted(outcome, seconds)

    def probed(self, outcome: str, seconds: float) -> None:
        for one in self._observers:
            one.probed(outcome, seconds)
