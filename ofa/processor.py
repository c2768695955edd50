"""The kind of processor, by the fastest instructions for matrix products that torch may use on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import torch

#: Kinds, fastest first, each with torch's name of the instruction set that it needs.
_NEEDS: Final[Mapping[str, str]] = {
    "amx": "amx_bf16",
    "avx512_bf16": "avx512_bf16",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512": "avx512_f",
    "avx2": "avx2",
}
#: Kinds that multiply bf16, and int8 without saturation.
BF16: Final = frozenset({"amx", "avx512_bf16"})
INT8: Final = BF16 | {"avx512_vnni", "avx_vnni"}

_UP_TO_BF16 = frozenset(_NEEDS) - {"amx"}
#: Kinds left by each limit in the environment, for oneDNN and for torch's own kernels. One that is not listed
#: leaves all.
_ONEDNN: Final[Mapping[str, frozenset[str]]] = {
    "avx10_1": _UP_TO_BF16,
    "avx10_1_512": _UP_TO_BF16,
    "avx512_core_fp16": _UP_TO_BF16,
    "avx512_core_bf16": _UP_TO_BF16,
    "avx512_core_vnni": frozenset({"avx512_vnni", "avx512", "avx2"}),
    "avx512_core": frozenset({"avx512", "avx2"}),
    "avx2_vnni_2": frozenset({"avx_vnni", "avx2"}),
    "avx2_vnni": frozenset({"avx_vnni", "avx2"}),
    "avx2": frozenset({"avx2"}),
    "avx": frozenset(),
    "sse41": frozenset(),
}
_TORCH: Final[Mapping[str, frozenset[str]]] = {"avx2": frozenset({"avx2"}), "default": frozenset()}


def kind() -> str:
    """``amx``, ``avx512_bf16``, ``avx512_vnni``, ``avx_vnni``, ``avx512``, ``avx2`` or ``other``.

    ``ONEDNN_MAX_CPU_ISA`` (or its older name) and ``ATEN_CPU_CAPABILITY`` count; oneDNN and torch read them
    once, so they have to be set before the process starts.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA", "")
    kinds = frozenset(_NEEDS)
    left = _ONEDNN.get(limit.lower(), kinds) & _TORCH.get(os.environ.get("ATEN_CPU_CAPABILITY", ""), kinds)
    has = torch.cpu.get_capabilities()
    return next((name for name, needed in _NEEDS.items() if name in left and has.get(needed)), "other")
