"""The training's shortcuts compute the same as the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lab.demo_training.curriculum import Stage
from lab.demo_training.folder import stored_weights
from lab.demo_training.packed import answer_states, blind_pictures
from lab.demo_training.pictures import as_seen
from lab.demo_training.train import adopt_vision, export, start_from_weights
from lab.demo_training.vision_stage import GRID, targets, to_input
from lab.demo_training.world import COLOURS, SHAPES, Scene, Thing
from ofa.checkpoint import load_weights, read_state
from ofa.config import NetworkConfig
from ofa.image import to_pixels
from ofa.network import OFA
from ofa.tokenizer import Tokenizer

from . import DEMO


@pytest.fixture(scope="module")
def network() -> OFA:
    network = OFA(NetworkConfig.from_folder(DEMO))
    load_weights(network, DEMO)
    return network.eval()


@torch.no_grad()
def test_packed_sentences_get_the_same_states_as_alone(network: OFA) -> None:
    tokenizer = Tokenizer.from_folder(DEMO)
    torch.manual_seed(0)
    features = torch.randn(2, GRID * GRID, 1024).relu()
    lengths = torch.tensor([[9, 12, 5], [12, 7, 10]])
    tokens = torch.randint(5, tokenizer.base_size, (2, 3, 12))
    for picture in range(2):
        for sentence in range(3):
            tokens[picture, sentence, lengths[picture, sentence] :] = tokenizer.pad
    packed = answer_states(network, network.encoder.image_proj(features), tokens, lengths)
    for picture in range(2):
        for sentence in range(3):
            alone = tokens[picture, sentence, : lengths[picture, sentence]][None]
            source = network.encoder(alone, features[picture : picture + 1])
            expected = network.decoder(alone[:, :-1], source)[0, -1]
            torch.testing.assert_close(packed[picture, sentence], expected, atol=2e-4, rtol=1e-4)


def test_in_the_committed_weights_pictures_do_not_attend_to_text(network: OFA) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    blind_pictures(network)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_what_is_stored_is_half_precision_and_holds_the_embedding_once(network: OFA) -> None:
    stored = stored_weights(network)
    assert {value.dtype for value in stored.values()} == {torch.float16, torch.int64}
    assert [name for name in stored if "embed_tokens" in name] == ["encoder.embed_tokens.weight"]
    assert not any("rp_bucket" in name or name == "decoder.output_projection.weight" for name in stored)
    assert stored.keys() == read_state(DEMO / "pytorch_model.bin").keys()


def test_training_resumes_from_the_committed_weights_without_loss(tmp_path: Path) -> None:
    start_from_weights(tmp_path, "places")
    export(tmp_path, tmp_path)
    fresh, committed = read_state(tmp_path / "pytorch_model.bin"), read_state(DEMO / "pytorch_model.bin")
    assert fresh.keys() == committed.keys()
    assert all(torch.equal(fresh[name], committed[name]) for name in committed)


def test_training_sees_pictures_as_the_product_does() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (90, 140, 3), np.uint8)
    picture = Image.fromarray(noise)
    product = to_pixels(picture, 128, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    torch.testing.assert_close(to_input(as_seen(picture)[None].copy())[0], product, atol=1e-5, rtol=0)


def test_targets_mark_the_cell_of_each_centre() -> None:
    things = (Thing("star", "blue", 0.15, 0.1, 0.9), Thing("cross", "red", 0.4, 0.7, 0.3))
    grid = targets(Scene(160, 160, things, 1.0, 1)).reshape(GRID, GRID, -1)
    assert grid[..., 1].sum() == 2
    assert grid[7, 0, 1:4].tolist() == [1, SHAPES.index("star"), COLOURS.index("blue")]
    assert grid[2, 5, 1:4].tolist() == [1, SHAPES.index("cross"), COLOURS.index("red")]
    np.testing.assert_allclose(grid[2, 5, 6:], [0.7, 0.3, 0.2, 0.2], atol=1e-6)


def test_the_shares_of_a_centre_add_up_to_the_number_of_things() -> None:
    for count in range(6):
        things = tuple(Thing("star", "blue", 0.15, 0.09 + 0.2 * i, 0.97 - 0.21 * i) for i in range(count))
        grid = targets(Scene(160, 160, things, 1.0, 1))
        assert grid[:, 5].sum() == pytest.approx(count, abs=1e-5)


def test_a_refined_picture_encoder_goes_only_into_an_initial_state(tmp_path: Path) -> None:
    start_from_weights(tmp_path, "places")
    name = "encoder.image_proj.bias"
    vision = torch.load(tmp_path / "vision.pt", weights_only=True)
    vision["model"]["image_proj.bias"] += 1
    torch.save(vision, tmp_path / "vision.pt")
    before = torch.load(tmp_path / "language.pt", weights_only=True)
    torch.save({**before, "step": 7}, tmp_path / "language.pt")
    adopt_vision(tmp_path)
    begun = torch.load(tmp_path / "language.pt", weights_only=True)
    assert torch.equal(begun["network"][name], before["network"][name])
    torch.save(before, tmp_path / "language.pt")
    adopt_vision(tmp_path)
    fresh = torch.load(tmp_path / "language.pt", weights_only=True)
    assert torch.equal(fresh["network"][name], before["network"][name] + 1)


def test_a_stage_favours_the_weakest_categories_and_rehearses_the_rest() -> None:
    stage = Stage("both", ("count", "relation"), (1,), 0.3, 0.9, 10, rehearsed=("size",), rehearsal=0.2)
    shares = stage.shares({"count": 0.6, "relation": 0.9})
    assert sum(shares.values()) == pytest.approx(1)
    assert (shares["size"], shares["question"]) == (pytest.approx(0.2), pytest.approx(0.3))
    assert shares["count"] / shares["relation"] == pytest.approx(0.42 / 0.12)
