"""What the engine needs of its neighbours, so that it knows neither torch nor a log file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from service.errors import ServiceError
from service.request import Pair, Request, Verdict

CancelPoint = Callable[[], None]


class Predictor(Protocol):
    """A model that answers. One thread at a time calls ``judge``."""

    @property
    def device(self) -> str:
        """Where it computes, e.g. ``cpu`` or ``cuda:0``."""

    @property
    def dtype(self) -> str:
        """In which precision, e.g. ``fp32``."""

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        """Probabilities of Yes, No and Maybe for each pair, in order.

        Calls ``cancel_point`` as often as it can and lets through what that raises. All other errors are
        ServiceErrors."""


class Model(Predictor, Protocol):
    """A predictor with its whole life, as the application needs it."""

    @property
    def takes_premise(self) -> bool | None:
        """Whether its prompt has a place for a premise: True must have one, False must not, None may."""

    def load(self, folder: Path) -> None:
        """Make the model in ``folder`` ready to judge, in place of one loaded before. Raises ModelErrors."""

    def prepare(self, image: Image.Image) -> Image.Image:
        """The part of a picture that ``judge`` will look at, made small. Called in the callers' threads."""

    def gpu(self) -> tuple[str, int, int] | None:
        """Name, used and total bytes of the GPU in use, other processes included; None without one."""

    def close(self) -> None:
        """Give back what it holds. May be called more than once, and while ``judge`` is stuck."""


class Journal(Protocol):
    """Where the engine writes down what happened. Its methods never raise."""

    def refused(self, request_id: str, error: ServiceError, seconds: float) -> None:
        """A request was not accepted."""

    def ended(self, request: Request, verdict: Verdict) -> None:
        """An accepted request got its answer, or the reason why there is none."""

    def timed_out(self, request: Request, verdict: Verdict, computing: bool) -> None:
        """It was answered at its deadline, while waiting or while computing."""

    def late(self, request: Request, outcome: str, seconds: float) -> None:
        """A computation ended ``seconds`` after the arrival of a request that had been answered before."""

    def orphaned(self, requests: Sequence[Request], seconds: float) -> None:
        """A cancelled computation goes on, ``seconds`` after it began."""

    def hung(self, requests: Sequence[Request], seconds: float) -> None:
        """It went on past the last limit."""

    def broken(self, what: str, error: BaseException) -> None:
        """Something happened that should not be possible."""
