"""Initial weights that spare the transformer what it would take long to find: words along what the picture
tokens say, places as loud as colours, and a head in each layer that weighs things and not their areas.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.demo_training.packed import GRID, blind_pictures, seen_by_layer
from lab.demo_training.vision_stage import LEAST_SHARE
from lab.demo_training.world import COLOURS, SHAPES, SIZES
from ofa.layers import Attention, DecoderLayer, EncoderLayer
from ofa.network import OFA
from ofa.tokenizer import Tokenizer

PLACE_STRENGTH = 6.0
Vision = dict[str, dict[str, Tensor]]


@torch.no_grad()
def start_from_vision(network: OFA, vision: Vision, tokenizer: Tokenizer, seed: int) -> None:
    """Initial weights: the picture encoder, words along what the picture tokens say, keys like queries."""
    torch.manual_seed(seed)
    network.encoder.load_state_dict(vision["model"], strict=False)
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and "layers" in name:
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.normal_(network.encoder.embed_tokens.weight, std=network.config.d_model**-0.5)
    lay_words(network, vision, tokenizer)
    for positions in (network.encoder.embed_positions, network.decoder.embed_positions):
        nn.init.normal_(positions.weight, std=0.04)
    for attention in picture_readers(network):
        attention.k_proj.weight.copy_(attention.q_proj.weight)
    for name, parameter in network.named_parameters():
        if "rel_pos_table" in name:
            nn.init.zeros_(parameter)
    mark_places(network, vision, tokenizer)
    blind_pictures(network)


def picture_readers(network: OFA) -> list[Attention]:
    """The attentions that look at the picture: each encoder layer's own, each decoder layer's crossing."""
    readers = [layer.self_attn for layer in network.encoder.layers if isinstance(layer, EncoderLayer)]
    return readers + [layer.cross_attn for layer in network.decoder.layers if isinstance(layer, DecoderLayer)]


def lay_words(network: OFA, vision: Vision, tokenizer: Tokenizer) -> None:
    """Lay the words for shapes, colours and sizes along the directions that the heads read them from."""
    table = network.encoder.embed_tokens.weight
    for head, words in (("shape", SHAPES), ("colour", COLOURS), ("size", (SIZES[0], "", SIZES[1]))):
        weight = vision["heads"][f"{head}.weight"]
        for row, word in zip(functional.normalize(weight - weight.mean(0), dim=1), words, strict=True):
            plural = "crosses" if word == "cross" else word + "s"
            for spelling in (word, plural, "big" if word == "large" else ""):
                ids = tokenizer.encode(" " + spelling) if spelling else []
                if len(ids) == 1:
                    table[ids[0]] = row + 0.2 * table[ids[0]]


def mark_places(network: OFA, vision: Vision, tokenizer: Tokenizer) -> None:
    """Make a token's place as loud as its colour, and lay the words of place along it.

    Trained for shapes, the picture tokens carry their place at a quarter of the strength of everything else,
    and sentences about places stay at chance. Four directions are added to the position embeddings: across,
    down, and the distances from the middle both ways.
    """
    across, down, aside, off = vision["heads"]["marks"][1:]
    steps = (torch.arange(GRID) - (GRID - 1) / 2) / ((GRID - 1) / 2)  # -1 to 1
    x, y = steps.repeat(GRID)[:, None], steps.repeat_interleave(GRID)[:, None]
    places = x * across + y * down + (2 * x.abs() - 1) * aside + (2 * y.abs() - 1) * off
    network.encoder.embed_image_positions.weight[1:] += PLACE_STRENGTH * places
    middle = -aside - off
    rows = [(-across, "left"), (across, "right"), (middle, "centre center middle"), (-middle, "corner")]
    rows += [(-down, "top above higher upper"), (down, "bottom below under lower")]
    for direction, words in rows:
        for word in words.split():
            row = network.encoder.embed_tokens.weight[tokenizer.encode(" " + word)[0]]
            row.mul_(0.5).add_(direction)


@torch.no_grad()
def weigh_things(network: OFA, tokens: Tensor, shares: Tensor) -> None:
    """Give the last head of every layer that looks at the picture one dimension in which every token's logit
    is the logarithm of its share of a thing's centre: that head then weighs each thing alike, large or small,
    which counting rests on.

    Args:
        tokens: image_proj's output for some pictures, (pictures, grid², width).
        shares: how much of a centre each cell holds (`vision_stage.targets`), (pictures, grid²).
    """
    readers = picture_readers(network)
    for index, attention in enumerate(readers):
        seen = seen_by_layer(network, tokens)[min(index, network.config.encoder_layers)]
        weights = _readout(seen.flatten(0, 1), shares.flatten())
        width = attention.q_proj.weight.shape[0] // attention.heads
        rows = slice((attention.heads - 1) * width + 1, attention.heads * width)
        used = attention.q_proj.weight[rows].norm(dim=1) * attention.k_proj.weight[rows].norm(dim=1)
        row = rows.start + int(used.argmin())
        strength = float((weights.norm() / attention.scale) ** 0.5)
        attention.q_proj.weight[row] = 0
        attention.q_proj.bias[row] = strength
        attention.k_proj.weight[row] = weights / (attention.scale * strength)
        attention.k_proj.bias[row] = 0


def _readout(seen: Tensor, shares: Tensor) -> Tensor:
    """The direction that best tells log share, by least squares in which large shares count most: (width,)"""
    wanted = shares.clamp_min(LEAST_SHARE).log().double()
    weight = (shares.double() + 0.03)[:, None]
    inputs = seen.double() - (seen * weight).sum(0) / weight.sum()
    wanted = (wanted - (wanted * weight[:, 0]).sum() / weight.sum())[:, None]
    ridge = 1e-2 * torch.eye(inputs.shape[1], dtype=torch.double)
    solved: Tensor = torch.linalg.solve(inputs.T @ (inputs * weight) + ridge, inputs.T @ (wanted * weight))
    return solved[:, 0].float()
