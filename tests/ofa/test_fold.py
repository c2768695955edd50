"""Folding does not change the network's results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lab.parity.folders import SMALL, write_folder
from ofa import onednn
from ofa.checkpoint import load_weights
from ofa.config import NetworkConfig, image_grid
from ofa.fold import fold
from ofa.network import OFA

CONFIGURATIONS = ("scaled-shared-resnet34", "entangled-untyped-resnet50", "bare-post-norm")


def load(folder: Path) -> OFA:
    with torch.device("meta"):
        network = OFA(NetworkConfig.from_folder(folder))
    load_weights(network, folder)
    return network.eval()


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("length", [5, 40])
def test_a_folded_network_answers_as_before(name: str, length: int, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / name, SMALL[name])
    plain, folded = load(folder), load(folder)
    fold(folded)
    size = SMALL[name].task["patch_image_size"]
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    tokens = torch.randint(5, 600, (2, length), generator=torch.Generator().manual_seed(2))
    states = []
    with torch.inference_mode():
        for network in (plain, folded):
            features = network.encoder.see(pixels)
            assert features.shape[1] == image_grid(size) ** 2
            states.append(network.decoder(tokens, network.encoder(tokens, features)))
    assert torch.allclose(states[0], states[1], atol=1e-4), (states[0] - states[1]).abs().max()


@pytest.mark.parametrize("length", [3, 17])
def test_absorbed_cross_attention_equals_the_plain_one(random_folder: Path, length: int) -> None:
    attention = load(random_folder).decoder.layers[0].cross_attn
    generator = torch.Generator().manual_seed(3)
    queries, context = (torch.randn(2, n, 64, generator=generator) for n in (length, 29))
    bias = torch.randn(1, 4, length, 29, generator=generator)
    with torch.inference_mode():
        plain, absorbed = attention(queries, context, bias), attention.absorbed(queries, context, bias)
    assert torch.allclose(plain, absorbed, atol=1e-5)


def test_a_network_is_folded_once(random_folder: Path) -> None:
    network = load(random_folder)
    fold(network)
    with pytest.raises((TypeError, AttributeError)):
        fold(network)


@pytest.fixture
def nothing_fuses(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(onednn, "_supported", lambda dtype: False)


def test_gelu_inside_the_product_gives_what_it_gives_after_it(
    random_folder: Path, nothing_fuses: Callable[[], None]
) -> None:
    if not onednn._supported(torch.bfloat16):
        pytest.skip("this processor multiplies no bf16")
    layer = load(random_folder).encoder.layers[0].to(torch.bfloat16)
    x = torch.randn(2, 19, 64, generator=torch.Generator().manual_seed(4)).to(torch.bfloat16)
    with torch.inference_mode():
        fused = layer.feed_forward(x)
        nothing_fuses()
        apart = layer.feed_forward(x)
    assert not torch.equal(fused, torch.zeros_like(fused))
    assert torch.allclose(fused.float(), apart.float(), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_relu_inside_the_convolution_gives_what_it_gives_after_it(
    random_folder: Path, nothing_fuses: Callable[[], None], dtype: torch.dtype, tolerance: float
) -> None:
    if not onednn._supported(dtype):
        pytest.skip("this processor multiplies no bf16")
    network = load(random_folder)
    fold(network)
    vision = network.encoder.embed_images.to(dtype)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5)).to(dtype)
    with torch.inference_mode():
        assert onednn.fuses(pixels)
        fused = vision(pixels)
        nothing_fuses()
        apart = vision(pixels)
    assert fused.shape == apart.shape
    assert fused.float().abs().max() > 0.1
    scale = float(apart.float().abs().max())
    assert torch.allclose(fused.float(), apart.float(), atol=tolerance * scale)


def test_nothing_is_fused_that_is_to_be_trained() -> None:
    assert not onednn.fuses(torch.ones(1))
    with torch.inference_mode():
        assert not onednn.fuses(torch.ones(1, dtype=torch.float16))
