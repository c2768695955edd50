"""Data-parallel training with one single-threaded process per core.

On a shared machine this is faster than threads inside each operation: a delayed process delays the others
once per step, not at every matrix product. Every process draws its own data; gradients are averaged.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn


def run(workers: int, main: Callable[..., None], *arguments: Any) -> None:
    """Call `main(rank, *arguments)` in each process and wait for all."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_enter, (workers, str(Path(folder, "meet")), main, arguments), nprocs=workers)


def _enter(
    rank: int, workers: int, meeting: str, main: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    main(rank, *arguments)
    dist.barrier()
    dist.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes, in one all-reduce."""
    grads = [p.grad for p in parameters if p.grad is not None]
    average(grads)


def average(tensors: list[Tensor]) -> None:
    """Replace each tensor's content by its mean over the processes."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    position = 0
    for tensor in tensors:
        tensor.copy_(flat[position : position + tensor.numel()].view_as(tensor))
        position += tensor.numel()


def agree(value: float) -> float:
    """Return the mean over the processes."""
    tensor = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(tensor)
    return float(tensor) / dist.get_world_size()
