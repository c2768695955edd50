"""What the engine and the supervisor need of a model, so that they know neither torch nor ModelScope; and
what servers and batches need of the application."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from service.contract.correlation import Trace
from service.contract.request import Pair, Request, Source, VerdictFuture
from service.contract.status import Activity

CancelPoint = Callable[[], None]

Listed = Callable[[Path], str | None]
"""Returns the SHA-256 that a fetched file had when it was last checked, None if its size or time have changed
since or it was not fetched."""


class LoadLater(Protocol):
    """Runs loads in another thread."""

    def __call__(self, model: object, name: str, load: Callable[[], object]) -> None:
        """Run ``load`` of ``model``'s weights ``name``, unless it runs already. Raises the InferenceError of
        a load that has failed shortly before."""


class Submits(Protocol):
    """The part of the application that judges pairs."""

    def submit_many(
        self,
        image: Any,
        hypotheses: Sequence[str | None],
        premise: str | None = None,
        *,
        source: Source = "api",
        arrived: float | None = None,
        caller: str = "",
        client_id: str = "",
        trace: Trace | None = None,
        futures: Sequence[VerdictFuture] | None = None,
    ) -> list[VerdictFuture]: ...


class RequestEngine(Protocol):
    """Judges requests, or has them judged."""

    def start(self) -> None: ...

    def check(self, source: Source, caller: str = "", count: int = 1) -> None:
        """Raise the refusal that ``count`` requests would get now."""

    def submit_group(self, requests: Sequence[Request], futures: Sequence[VerdictFuture]) -> None:
        """Accept or refuse the requests of one call together. Each future gets a verdict; one whose input
        was only checked later, its InputError."""

    def activity(self) -> Activity:
        """What it is doing now."""

    def pause(self) -> None:
        """Start no computation until ``resume``."""

    def resume(self) -> None: ...

    def keep_heartbeat(self, beat: Callable[[], None]) -> None:
        """Call ``beat`` every second."""

    def stop(self, grace: float) -> bool:
        """Refuse new requests, answer accepted ones for ``grace`` seconds, cancel the rest. True when its
        threads have ended."""


class Loads(Protocol):
    """Loads the model; one ``run`` at a time. Setting ``stopping`` ends it."""

    stopping: threading.Event

    def run(self, verify: str | None = None) -> bool:
        """Load the model; True if its weights were replaced. Raises ServiceErrors."""


class Predictor(Protocol):
    """A model that judges pairs. One thread at a time calls ``judge``."""

    @property
    def device(self) -> str:
        """The device, e.g. ``cpu`` or ``cuda:0``."""

    @property
    def dtype(self) -> str:
        """The precision, e.g. ``fp32``."""

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float] | None]:
        """Return the probabilities of Yes, No and Maybe for each pair, in order; see Deferring about None.

        Calls ``cancel_point`` often and passes on what it raises. All other errors are ServiceErrors."""


class Model(Predictor, Protocol):
    """A predictor that can be loaded and closed."""

    @property
    def takes_premise(self) -> bool | None:
        """Whether a premise is required (True), refused (False) or optional (None)."""

    @property
    def language(self) -> str | None:
        """The language of its texts as ModelScope names it, such as ``en``; None if it is not known."""

    def side(self) -> int:
        """Return the width and height in pixels of the square picture it needs. Raises NotReady."""

    def load(self, folder: Path) -> None:
        """Load the model in ``folder``, replacing one loaded before. Raises ModelErrors."""

    def gpu(self) -> tuple[str, int, int] | None:
        """Return name, used and total bytes of the GPU, other processes included; None without a GPU."""

    def close(self) -> None:
        """Release everything. May be called more than once, and while ``judge`` hangs."""


@runtime_checkable
class MultiDevice(Model, Protocol):
    """A model that can hold copies of itself on several devices, as the memory fallback needs.

    ``device`` and ``dtype`` are those that ``judge`` computes on; ``move`` changes them.
    """

    @property
    def devices(self) -> Sequence[str]:
        """The devices it may compute on, its primary device first; empty while nothing is loaded."""

    def move(self, device: str) -> None:
        """Compute on ``device`` from the next ``judge`` on, loading the weights there if needed. On
        InferenceErrors and ModelErrors it stays where it was."""

    def judge_on(self, device: str, pairs: Sequence[Pair]) -> Sequence[Mapping[str, float]]:
        """Judge on ``device`` and keep the copy there on success. Another thread may judge on the current
        device at the same time."""

    def release(self, device: str) -> None:
        """Drop the copy on ``device`` and the memory cached for it."""

    def empty_cache(self) -> None:
        """Release unused cached memory. May be called by any thread."""

    def reserved(self) -> tuple[int, int]:
        """Return the bytes of GPU memory reserved by this process, and those in use, without the driver."""


@runtime_checkable
class Deferring(Model, Protocol):
    """A model that can load weights that few pairs need while it judges others."""

    def defer(self, load_later: LoadLater) -> None:
        """From now on ``judge`` does not wait for such weights: it passes their load to ``load_later``, and
        returns None for the pairs that need them."""


@runtime_checkable
class Converting(Model, Protocol):
    """A model that caches converted weights, so that the next load is faster."""

    def keep_converted(self, cancel_point: CancelPoint, listed: Listed) -> None:
        """Write the converted weights if they are missing and worth it. Runs beside ``judge``.

        Raises DamagedFile when the weights on disk are not as ``listed``, OSError, other ModelErrors, and
        what ``cancel_point`` raises."""

    def verify_converted(self, folder: Path, cancel_point: CancelPoint, listed: Listed) -> bool:
        """Hash the converted weights of ``folder`` and delete damaged ones. False if there were any. Files
        that ``listed`` knows are not hashed again. Raises OSError."""
