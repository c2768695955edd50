"""What the engine needs of its neighbours, so that it knows neither torch nor a log file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from service.contract.errors import ServiceError
from service.contract.events import Stage
from service.contract.request import Pair, Request, RequestTiming, Verdict

CancelPoint = Callable[[], None]

Listed = Callable[[Path], str | None]
"""The SHA-256 that a fetched file had when it was checked last, as long as its size and time have not changed
since; None of any other file."""


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

    def side(self) -> int:
        """Width and height of the square that ``judge`` sees of a picture, in pixels. Raises NotReady."""

    def load(self, folder: Path) -> None:
        """Make the model in ``folder`` ready to judge, in place of one loaded before. Raises ModelErrors."""

    def gpu(self) -> tuple[str, int, int] | None:
        """Name, used and total bytes of the GPU in use, other processes included; None without one."""

    def close(self) -> None:
        """Give back what it holds. May be called more than once, and while ``judge`` is stuck."""


@runtime_checkable
class MultiDevice(Model, Protocol):
    """A model that can hold copies of itself on several devices: what the memory fallback needs.

    What it says of ``device`` and ``dtype`` is where ``judge`` computes; ``move`` changes it.
    """

    @property
    def devices(self) -> Sequence[str]:
        """The devices it may compute on, the one it was meant for first; empty while nothing is loaded."""

    def move(self, device: str) -> None:
        """Compute on ``device`` from the next ``judge`` on; reads the weights again where they are not there.
        Raises InferenceErrors and ModelErrors, and stays where it was then."""

    def judge_on(self, device: str, pairs: Sequence[Pair]) -> Sequence[Mapping[str, float]]:
        """What ``judge`` would answer on ``device``. Keeps the copy there if it succeeds. Another thread may
        judge elsewhere meanwhile."""

    def release(self, device: str) -> None:
        """Drop the copy on ``device`` and the memory cached for it."""

    def empty_cache(self) -> None:
        """Give back memory that is held and not used. May be called by any thread."""

    def reserved(self) -> tuple[int, int]:
        """Bytes of GPU memory this process has reserved, and how many of those are in use. Asks no driver."""


@runtime_checkable
class Converting(Model, Protocol):
    """A model that keeps its weights in a converted form, from which the next load is faster."""

    def keep_converted(self, cancel_point: CancelPoint, listed: Listed) -> None:
        """Write the converted weights unless they are there or not worth it. Called in a thread of its own,
        beside ``judge``.

        Raises DamagedFile when the weights on the disk are not as ``listed``, OSError without room or right,
        other ModelErrors, and what ``cancel_point`` raises."""

    def verify_converted(self, folder: Path, cancel_point: CancelPoint, listed: Listed) -> bool:
        """Hash the converted weights of ``folder`` in full, and remove those that are not as they were
        written. False if there were any. ``listed`` says what need not be hashed. Raises OSError."""


class Journal(Protocol):
    """Where the engine writes down what happened. Its methods never raise."""

    def refused(self, request: Request, error: ServiceError, seconds: float) -> None:
        """A request was not accepted; of its texts and its picture it holds what is known."""

    def slow(self, request: Request, stage: Stage, seconds: float) -> None:
        """A request spent ``seconds`` since its arrival in ``stage`` before it could be accepted."""

    def batched(self, requests: Sequence[Request]) -> None:
        """These are computed together from now on."""

    def ended(self, request: Request, verdict: Verdict, timing: RequestTiming) -> None:
        """An accepted request got its answer, or the reason why there is none."""

    def timed_out(self, request: Request, verdict: Verdict, timing: RequestTiming, computing: bool) -> None:
        """It was answered at its deadline, while waiting or while computing."""

    def late(self, request: Request, outcome: str, seconds: float) -> None:
        """A computation ended ``seconds`` after the arrival of a request that had been answered before."""

    def orphaned(self, requests: Sequence[Request], seconds: float) -> None:
        """A cancelled computation goes on, ``seconds`` after it began."""

    def hung(self, requests: Sequence[Request], seconds: float) -> None:
        """It went on past the last limit."""

    def broken(self, what: str, error: BaseException) -> None:
        """Something happened that should not be possible."""
