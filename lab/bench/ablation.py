"""Measure what each optimisation saves: one request with it and without it.

Optimisations are disabled by patching their function, so that the product needs no switches. The weights are
loaded again for each one, since folding happens while loading.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import nn

import ofa.bias
import ofa.fold
import ofa.model
from lab.bench.cases import photograph, sentence
from lab.bench.sides import Subject
from lab.bench.timing import alternate, ratio, timed
from ofa import onednn
from ofa.layers import Attention
from ofa.model import EntailmentModel
from ofa.pair import Pair

Change = Callable[[EntailmentModel], None]


def _nothing(*_: object) -> None:
    """Replacement for a disabled step."""


def _fuses_nothing(_: object) -> bool:
    return False


def _channels_last(model: EntailmentModel) -> None:
    """The conversion that folding would have done."""
    model.network.encoder.embed_images.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _row_major(model: EntailmentModel) -> None:
    for module in model.network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter(
                module.weight.contiguous(memory_format=torch.contiguous_format), requires_grad=False
            )


def every_pass(model: EntailmentModel) -> None:
    """Run one decoder pass per answer, as ModelScope does."""
    model.scorer.single_pass = False
    model._bias = ofa.bias.BiasCache(model.network, model._bias._grid, model.scorer.forced)


def no_cache(model: EntailmentModel) -> None:
    """Compute the attention bias again for each request."""
    of = model._bias.of

    def anew(length: int) -> ofa.bias.Bias:
        model._bias._length = 0
        return of(length)

    model._bias.of = anew  # type: ignore[method-assign]


#: name → functions patched while the weights are loaded and used, and a change to the loaded model.
STEPS: Final[Mapping[str, tuple[Mapping[tuple[Any, str], Any], Change]]] = {
    "BatchNorm folded": ({(ofa.fold, "_fold_norms"): _nothing}, _channels_last),
    "head scales folded": ({(ofa.fold, "_fold_heads"): _nothing}, _nothing),
    "q, k, v as one product": ({(ofa.fold, "_fuse_projections"): _nothing}, _nothing),
    "channels-last": ({}, _row_major),
    "GELU and ReLU within products": ({(onednn, "fuses"): _fuses_nothing}, _nothing),
    "attention by oneDNN": ({(onednn, "attends"): _fuses_nothing}, _nothing),
    "cross-attention absorbed": ({(Attention, "absorbed"): Attention.forward}, _nothing),
    "bias kept": ({}, no_cache),
    "length filled up to 32": ({(ofa.bias, "_BLOCK"): 1}, _nothing),
    "one decoder pass": ({}, every_pass),
}


def ablation(subject: Subject) -> dict[str, Any]:
    """Measure one request without each step in the fastest format, and once in fp32."""
    rows: dict[str, Any] = {}
    for name, (replaced, change) in STEPS.items():
        rows[name] = _compare(subject, replaced, change)
    if subject.low != torch.float32:
        rows[subject.low_name] = _row(_seconds(subject, {"with": subject.fast, "without": subject.exact}))
    return {"side": subject.low_name, "steps": rows}


def _compare(subject: Subject, replaced: Mapping[tuple[Any, str], Any], change: Change) -> dict[str, Any]:
    with _without(replaced):
        without = EntailmentModel.load(subject.folder, subject.device, subject.low)
        change(without)
    full = subject.fast
    spreads = _seconds(subject, {"with": full, "without": without}, replaced)
    del without
    gc.collect()
    return _row(spreads)


def _seconds(
    subject: Subject,
    models: Mapping[str, EntailmentModel],
    replaced: Mapping[tuple[Any, str], Any] | None = None,
) -> dict[str, float]:
    def call(name: str) -> Callable[[int], float]:
        def judge(turn: int) -> float:
            pair = Pair(photograph(turn % 4), sentence(turn))
            with _without(replaced or {} if name == "without" else {}):
                return timed(lambda: models[name].judge([pair]), subject.device)

        return judge

    spreads = alternate({name: call(name) for name in models}, 2 if subject.quick else 5)
    return {name: spread.median for name, spread in spreads.items()}


def _row(seconds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "with": round(seconds["with"], 4),
        "without": round(seconds["without"], 4),
        "gain": ratio(seconds["without"], seconds["with"]),
    }


@contextmanager
def _without(replaced: Mapping[tuple[Any, str], Any]) -> Iterator[None]:
    patches = [patch.object(owner, name, value) for (owner, name), value in replaced.items()]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
