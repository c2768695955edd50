"""Computations recorded once and replayed: CUDA graphs, for batches too small to keep a GPU busy.

At the large size a request is about a thousand kernels, and launching one takes Python longer than a fast GPU
needs to compute it. A graph launches hundreds at once. It works on fixed memory, so there is one recording
for each shape: inputs are copied into it and a batch is filled up to the next of :data:`BATCHES`.

A shape is recorded when it occurs a second time, so that the first verdict never waits for it. Whatever is
not recorded is computed directly: large batches, rare shapes, everything for a minute after
:meth:`Graphs.release`, and everything once a recording has failed. A recording consists of several graphs,
split at the cancel points of the recorded function, so that a computation can still be stopped.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol
from weakref import WeakSet

import torch
from torch import Tensor

from ofa.vision import CancelPoint

#: Whether models on a GPU use :mod:`ofa.padded` and this module. Not tested on CUDA yet: `make gpu-check`
#: measures both ways.
ENABLED: bool = False
#: Batch sizes that are recorded. Larger batches keep a GPU busy anyway.
BATCHES: Final = (1, 2, 4, 8)
#: A batch is filled up only if at most this fraction of it is then unused.
_WASTE: Final = 0.25
#: Recordings kept; beyond, the least recently used one is dropped.
_KEPT: Final = 12
#: Seconds without recordings after a release, so that full memory does not cause one after the other.
_PAUSE: Final = 60.0
#: Cancel points in one graph: network layers or blocks of the ResNet.
_PART: Final = 8
_log = logging.getLogger(__name__)

#: Computes from tensors with the batch as first dimension; calls the cancel point, unless None, now and then.
Function = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded computation.

    Attributes:
        parts: replay it when called in order.
        output: where the last part leaves the result.
    """

    parts: Sequence[Callable[[], None]]
    output: Tensor


class Backend(Protocol):
    """Records computations on one device. Tests use one for the CPU."""

    def record(self, function: Callable[[CancelPoint], Tensor]) -> Recording:
        """Record what ``function`` computes, with a new part at every eighth call of its argument.

        The recording does not keep the tensors alive that the function reads.
        """
        ...

    def mark(self) -> Callable[[], None]:
        """Return a function that waits until everything queued so far is computed."""
        ...


class Graphs:
    """The recordings of one model. One thread may :meth:`run`; any may :meth:`release`."""

    def __init__(self, backend: Backend, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend = backend
        self._clock = clock
        self._paused_until = clock()
        self._failed = False
        # None for a shape that has occurred once. Replaced as a whole by release(), hence without a lock.
        self._kept: OrderedDict[Hashable, tuple[list[Tensor], Recording] | None] = OrderedDict()

    def run(
        self,
        name: Hashable,
        function: Function,
        inputs: Sequence[Tensor],
        cancel_point: CancelPoint | None = None,
    ) -> Tensor:
        """Return ``function(*inputs, cancel_point)``, replayed if it is recorded.

        Args:
            name: identifies the function and all tensors it reads besides ``inputs``, which must stay in
                place and alive as long as calls use this name.
        """
        found = self._recorded(name, function, inputs)
        if found is None:
            return function(*inputs, cancel_point)
        static, recording = found
        count = len(inputs[0])
        for buffer, value in zip(static, inputs, strict=True):
            buffer[:count].copy_(value)
        wait = None
        for part in recording.parts:
            if cancel_point is not None:
                cancel_point()
            part()
            # At most two parts are queued: else the host would pass all cancel points at once.
            if wait is not None:
                wait()
            wait = self._backend.mark()
        return recording.output[:count].clone()

    def release(self) -> None:
        """Drop all recordings and make none for a minute."""
        self._paused_until = self._clock() + _PAUSE
        self._kept = OrderedDict()

    def _recorded(
        self, name: Hashable, function: Function, inputs: Sequence[Tensor]
    ) -> tuple[list[Tensor], Recording] | None:
        """The recording to replay for ``inputs``, made if its time has come."""
        count = len(inputs[0])
        batch = next((size for size in BATCHES if count <= size), None)
        if batch is None or batch - count > _WASTE * batch or self._clock() < self._paused_until:
            return None
        key = (name, batch, *((one.shape[1:], one.dtype) for one in inputs))
        kept = self._kept
        if (found := kept.get(key)) is None and key in kept and not self._failed:
            found = self._record(function, inputs, batch)
        kept[key] = found
        kept.move_to_end(key)
        if len(kept) > _KEPT:
            kept.popitem(last=False)
        return found

    def _record(
        self, function: Function, inputs: Sequence[Tensor], batch: int
    ) -> tuple[list[Tensor], Recording] | None:
        try:
            static = [one.new_zeros(batch, *one.shape[1:]) for one in inputs]
            return static, self._backend.record(lambda split: function(*static, split))
        except (torch.OutOfMemoryError, MemoryError):
            self.release()
            _log.warning("GRAPHS | OUTCOME=released | REASON=out_of_memory")
        except Exception as error:
            self.release()
            self._failed = True
            _log.warning("GRAPHS | OUTCOME=off | ERROR=%s", type(error).__name__)
        return None


class CudaGraphs:
    """Records on a GPU. All recordings share one memory pool, since one replay follows the other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._alive: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def record(self, function: Callable[[CancelPoint], Tensor]) -> Recording:
        current = torch.cuda.current_stream(self._device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(current)
        graphs: list[torch.cuda.CUDAGraph] = []
        with torch.cuda.stream(self._stream):
            function(lambda: None)  # libraries allocate and choose kernels at a first call
            self._stream.synchronize()
            try:
                output = self._captured(function, graphs)
            except BaseException:
                with suppress(RuntimeError):
                    graphs[-1].capture_end()
                raise
        current.wait_stream(self._stream)
        self._alive.update(graphs)
        return Recording([graph.replay for graph in graphs], output)

    def mark(self) -> Callable[[], None]:
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event.synchronize

    def _captured(
        self, function: Callable[[CancelPoint], Tensor], graphs: list[torch.cuda.CUDAGraph]
    ) -> Tensor:
        """Capture into ``graphs``, the last of which may be left open by an exception."""
        calls = 0

        def begin() -> None:
            # The pool of a living graph: that of graphs that are all gone may not be used again.
            pool = next((one.pool() for one in (*graphs, *self._alive)), None)
            graph = torch.cuda.CUDAGraph()
            # Other threads may call CUDA meanwhile: the health checks read the GPU's memory.
            graph.capture_begin(pool, capture_error_mode="thread_local")
            graphs.append(graph)

        def split() -> None:
            nonlocal calls
            calls += 1
            if calls % _PART == 0:
                graphs[-1].capture_end()
                begin()

        begin()
        output = function(split)
        graphs[-1].capture_end()
        return output
