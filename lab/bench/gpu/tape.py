"""CUDA graphs emulated on a CPU: replays repeat the recorded operations on the same memory.

As with a CUDA graph, a replay runs no Python of the recorded function, sees only what is in the recorded
tensors, and leaves its results where the recording put them; operations that a capture forbids fail. Unlike
there, no two tensors share memory, and a recording keeps what it reads alive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ofa.graphs import Recording
from ofa.vision import CancelPoint

_aten = torch.ops.aten
#: Copies from host memory, and operations whose result the host waits for.
FORBIDDEN: Final = {
    _aten.lift_fresh.default,
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
}
#: As in ofa.graphs.
PART: Final = 8


class Tape:
    """Records on the CPU, as :class:`ofa.graphs.CudaGraphs` does on a GPU."""

    def record(self, function: Callable[[CancelPoint], Tensor]) -> Recording:
        """As :meth:`ofa.graphs.Backend.record`."""
        parts: list[list[Callable[[], None]]] = [[]]
        calls = 0

        def split() -> None:
            nonlocal calls
            calls += 1
            if calls % PART == 0:
                parts.append([])

        with _Recorder(parts):
            output = function(split)
        return Recording([partial(_play, part) for part in parts], output)

    def mark(self) -> Callable[[], None]:
        """As :meth:`ofa.graphs.Backend.mark`; nothing is queued on a CPU."""
        return lambda: None


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Appends each operation to the last part."""

    def __init__(self, parts: Sequence[list[Callable[[], None]]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parts = parts

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in FORBIDDEN or (func is _aten.index.Tensor and _by_mask(args[1])):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        call = partial(func, *args, **(kwargs or {}))
        results = call()
        if func._schema.is_mutable:
            self._parts[-1].append(call)
        elif not _is_view(results, call):
            self._parts[-1].append(partial(_again, call, results))
        return results


def _by_mask(indices: Sequence[Tensor | None]) -> bool:
    """Whether the size of the result depends on values, for which the host would wait."""
    return any(one is not None and one.dtype is torch.bool for one in indices)


def _is_view(results: Any, call: partial[Any]) -> bool:
    """Whether the results are memory of the arguments."""
    given = {_memory(one) for one in _tensors((call.args, call.keywords))}
    return any(_memory(one) in given for one in _tensors(results))


def _tensors(values: Any) -> list[Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _again(call: Callable[[], Any], results: Any) -> None:
    for old, new in zip(_tensors(results), _tensors(call()), strict=True):
        old.copy_(new)


def _play(part: Sequence[Callable[[], None]]) -> None:
    for operation in part:
        operation()
