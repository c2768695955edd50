"""Attention by separate products gives what torch's kernel gives, and is used only where it is faster."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ofa import onednn, processor

_SCALE = 0.125


def _inputs(batch: int, length: int, context: int) -> tuple[torch.Tensor, ...]:
    """q, k and v as views of one projection, and a slice of a longer bias, the last key masked."""
    generator = torch.Generator().manual_seed(length)
    projected = torch.randn(batch, max(length, context), 3 * 2 * 32, generator=generator)
    q, k, v = (part.view(batch, -1, 2, 32).transpose(1, 2) for part in projected.bfloat16().chunk(3, dim=-1))
    bias = torch.randn(1, 2, length + 3, context + 3, generator=generator).bfloat16()[..., :length, :context]
    bias[..., -1] = torch.finfo(bias.dtype).min
    return q[..., :length, :], k[..., :context, :], v[..., :context, :], bias


@pytest.mark.parametrize(("batch", "length", "context"), [(1, 130, 130), (3, 128, 70)])
@torch.inference_mode()
def test_separate_products_give_what_torchs_kernel_gives(batch: int, length: int, context: int) -> None:
    q, k, v, bias = _inputs(batch, length, context)
    exact = functional.scaled_dot_product_attention(
        q.float(), k.float(), v.float(), attn_mask=bias.float(), scale=_SCALE
    )
    mixed = onednn.attention(q, k, v, bias, _SCALE)
    assert mixed.shape == exact.shape
    assert mixed.transpose(1, 2).is_contiguous()
    assert (mixed.float() - exact).norm() < 0.01 * exact.norm()


@torch.inference_mode()
def test_a_masked_key_has_no_weight() -> None:
    q, k, v, bias = _inputs(1, 128, 128)
    changed = v.clone()
    changed[..., -1, :] = 100.0
    assert torch.equal(*(onednn.attention(q, k, one, bias, _SCALE) for one in (v, changed)))


@pytest.mark.parametrize(("kind", "used"), [("avx512_bf16", True), ("amx", False), ("avx512_vnni", False)])
def test_only_long_sequences_in_bf16_without_amx_use_it(
    kind: str, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "_has_bf16_without_amx", lambda: processor.kind() == "avx512_bf16")
    monkeypatch.setattr(processor, "kind", lambda: kind)
    queries = torch.zeros(1, 2, 128, 32, dtype=torch.bfloat16)
    with torch.inference_mode():
        assert onednn.attends(queries) is used
        assert not onednn.attends(queries.float())
        assert not onednn.attends(queries[..., :127, :])
    assert not onednn.attends(queries)  # with gradients
