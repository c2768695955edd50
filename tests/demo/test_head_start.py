"""The initial weights have the intended effect."""

from __future__ import annotations

import torch
from torch.nn import functional

from lab.demo_training.head_start import picture_readers, start_from_vision, weigh_things
from lab.demo_training.packed import GRID, seen_by_layer
from lab.demo_training.train import small_network
from lab.demo_training.vision_stage import LEAST_SHARE, Heads, ImageTokens
from ofa.network import OFA
from ofa.tokenizer import Tokenizer

from . import DEMO


def fresh() -> tuple[OFA, Tokenizer, Heads]:
    torch.manual_seed(2)
    tokenizer = Tokenizer.from_folder(DEMO)
    network = small_network(tokenizer)
    heads = Heads(network.config.d_model)
    vision = {"model": ImageTokens(network.config.d_model).state_dict(), "heads": heads.state_dict()}
    start_from_vision(network, vision, tokenizer, seed=3)
    return network.eval(), tokenizer, heads


def test_words_start_aligned_with_the_picture_tokens() -> None:
    network, tokenizer, heads = fresh()
    centred = heads.colour.weight - heads.colour.weight.mean(0)
    row = network.encoder.embed_tokens.weight[tokenizer.encode(" red")[0]]
    closeness = functional.cosine_similarity(row[None], centred)
    assert closeness.argmax() == 0
    assert closeness[0] > 0.8


@torch.no_grad()
def test_places_start_aligned_with_the_marks() -> None:
    network, tokenizer, heads = fresh()
    strength = network.encoder.embed_image_positions.weight[1:] @ heads.marks[1]
    by_column = strength.reshape(GRID, GRID).mean(0)
    assert (by_column.diff() > 0).all()
    left, right = (
        network.encoder.embed_tokens.weight[tokenizer.encode(f" {w}")[0]] for w in ("left", "right")
    )
    assert float((right - left) @ heads.marks[1]) > 1


@torch.no_grad()
def test_the_last_head_weighs_cells_by_their_share_of_a_thing() -> None:
    network, _, _ = fresh()
    shares = torch.zeros(40, GRID**2)
    shares.scatter_(1, torch.randint(0, GRID**2, (40, 3)), 1.0)
    tokens = torch.randn(40, GRID**2, network.config.d_model)
    tokens[..., 5] += 4 * shares.clamp_min(LEAST_SHARE).log()  # as from the picture encoder
    weigh_things(network, tokens, shares)
    for reader, seen in zip(picture_readers(network)[:3], seen_by_layer(network, tokens), strict=False):
        row = int(reader.q_proj.bias.argmax())
        assert row >= reader.k_proj.weight.shape[0] * (reader.heads - 1) // reader.heads
        logits = reader.scale * reader.q_proj.bias[row] * (seen @ reader.k_proj.weight[row])
        gap = logits[shares == 1].mean() - logits[shares == 0].mean()
        assert gap > 2  # log(1 / LEAST_SHARE) is 3.9
