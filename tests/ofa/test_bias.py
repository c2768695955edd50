"""The cached bias equals the network's own bias for every length, padded or not."""

from __future__ import annotations

import pytest
import torch

from lab.parity.folders import SMALL, write_folder
from ofa.bias import BiasCache
from ofa.checkpoint import load_weights
from ofa.config import MAX_BUCKET_POSITIONS, NetworkConfig
from ofa.network import OFA


@pytest.fixture(scope="module", params=["defaults-resnet18", "scaled-shared-resnet34"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OFA:
    folder = write_folder(tmp_path_factory.mktemp("bias") / "model", SMALL[request.param])
    with torch.device("meta"):
        network = OFA(NetworkConfig.from_folder(folder))
    load_weights(network, folder)
    return network.eval()


def decoded(
    network: OFA, tokens: torch.Tensor, features: torch.Tensor, cache: BiasCache | None
) -> torch.Tensor:
    """The decoder's states with the text as prompt, with or without the cache."""
    if cache is None:
        return network.decoder(tokens, network.encoder(tokens, features))
    bias = cache.of(tokens.shape[1])
    padded = torch.nn.functional.pad(tokens, (0, bias.padding), value=1)
    return network.decoder(tokens, network.encoder(padded, features, bias=bias.encoder), bias.decoder)


@pytest.mark.parametrize(("grid", "paddings"), [(4, {0}), (23, {10, 7, 0})])
@torch.inference_mode()
def test_each_length_gets_what_it_would_get_alone(network: OFA, grid: int, paddings: set[int]) -> None:
    cache, generator = BiasCache(network, grid, forced=0), torch.Generator().manual_seed(1)
    features = torch.randn(1, grid * grid, 1024, generator=generator)
    used = set()
    for length in (5, 8, 40, 5, 47, 8):  # up and down, so that hidden keys must come back
        tokens = torch.randint(5, 600, (1, length), generator=generator)
        alone, cached = (decoded(network, tokens, features, one) for one in (None, cache))
        assert torch.allclose(alone, cached, atol=1e-4), (length, (alone - cached).abs().max())
        used.add(cache.of(length).padding)
    assert used >= paddings


@torch.inference_mode()
def test_a_text_as_long_as_the_table_is_not_padded_past_its_end(network: OFA) -> None:
    longest = min(network.config.max_position_embeddings + 2, MAX_BUCKET_POSITIONS)
    bias = BiasCache(network, 2, forced=0).of(longest - 1)
    assert bias.padding == 0 or longest - 1 + bias.padding <= longest
    assert bias.encoder[0].shape[-1] == 4 + longest - 1 + bias.padding


@torch.inference_mode()
def test_what_is_forced_after_the_prompt_has_its_bias(network: OFA) -> None:
    bias = BiasCache(network, 4, forced=3).of(32)
    assert bias.decoder.own[0].shape[-1] >= 35
    assert bias.decoder.cross.shape[-2:] == (bias.decoder.own[0].shape[-1], 48)
