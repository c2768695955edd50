"""Events of requests, model and probes, and their fan-out to the request log, the history and the metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from service.contract.errors import ServiceError
from service.contract.request import Request, RequestTiming, Verdict

Stage = Literal["decoding", "waiting", "computing"]
_log = logging.getLogger(__name__)


class Listener:
    """Hooks for events, each of which does nothing here. Times are seconds.

    A hook may be called by any thread, takes microseconds and never raises.
    """

    def started(self, request: Request, removed: Mapping[str, int]) -> None:
        """The input was accepted; ``removed`` counts characters removed from the texts, by kind."""

    def refused(self, request: Request, error: ServiceError, seconds: float) -> None:
        """A request was not queued. It holds what was known of its texts and its picture."""

    def batched(self, requests: Sequence[Request]) -> None:
        """A computation of these requests begins."""

    def preempted(self, requests: Sequence[Request]) -> None:
        """Another request stopped the computation of these background rows; they wait again."""

    def ended(
        self, request: Request, verdict: Verdict, timing: RequestTiming, stage: Stage | None = None
    ) -> None:
        """A queued request was answered; ``stage`` is where it was if it reached its deadline, else None."""

    def late(self, request: Request, outcome: str, seconds: float) -> None:
        """A computation ended ``seconds`` after the arrival of a request that had been answered before."""

    def not_cancelling(self, requests: Sequence[Request], seconds: float) -> None:
        """A cancelled computation still runs, ``seconds`` after it began."""

    def hung(self, requests: Sequence[Request], seconds: float) -> None:
        """A cancelled computation ran past the hang limit."""

    def broken(self, what: str, error: BaseException) -> None:
        """A bug was met; ``what`` is a phrase of ours."""

    def out_of_memory(self, then: str) -> None:
        """A computation ran out of memory; ``then`` names the step that is tried next."""

    def moved(self, here: str, there: str) -> None:
        """The model moved from device ``here`` to device ``there``."""

    def load_attempted(self, outcome: str, seconds: float) -> None:
        """An attempt to load the model ended: ``loaded``, or an error's code."""

    def probed(self, outcome: str, seconds: float) -> None:
        """A probe ended: success, unstable, timeout, error, or the code of why it could not run."""


class Events(Listener):
    """Passes every event on to each listener, in the order given."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = listeners


def _pass_on(hook: str) -> Callable[..., None]:
    def method(events: Events, *args: Any, **named: Any) -> None:
        for listener in events.listeners:
            try:
                getattr(listener, hook)(*args, **named)
            except Exception as error:  # a bug in one listener must not end the engine or hide the event
                name = type(error).__name__
                _log.error("BROKEN | MSG=exception in a listener | ERROR=%s", name, exc_info=True)

    return method


for _hook in [name for name in vars(Listener) if not name.startswith("_")]:
    setattr(Events, _hook, _pass_on(_hook))
NO_EVENTS = Listener()
