"""Initial weights that the transformer would take long to find: words aligned with the picture tokens,
positions as strong as colours, and one head per layer that weighs things independently of their area.
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
    """Set initial weights: picture encoder, words aligned with picture tokens, keys equal to queries."""
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
    """Return the attentions over the picture: encoder self-attention, decoder cross-attention."""
    readers = [layer.self_attn for layer in network.encoder.layers if isinstance(layer, EncoderLayer)]
    return readers + [layer.cross_attn for layer in network.decoder.layers if isinstance(layer, DecoderLayer)]


def lay_words(network: OFA, vision: Vision, tokenizer: Tokenizer) -> None:
    """Align the words for shapes, colours and sizes with the directions of the read-out heads."""
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
    """Scale a token's position to the strength of its colour, and align the words of place with it.

    Trained for shapes, the picture tokens carry their position at a quarter of the strength of everything
    else, and sentences about places stay at chance. Four directions are added to the position embeddings: x,
    y, and the distances from the middle on both axes.
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
    """Give the last head of every picture attention one dimension in which a token's logit is the log of its
    share of a thing's centre. That head then weighs large and small things alike, as counting needs.

    Args:
        tokens: output of image_proj for some pictures, (pictures, grid², width).
        shares: share of a centre in each cell (`vision_stage.targets`), (pictures, grid²).
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
    """Return the direction that predicts log share, by least squares weighted by share: (width,)."""
    wanted = shares.clamp_min(LEAST_SHARE).log().double()
    weight = (shares.double() + 0.03)[:, None]
    inputs = seen.double() - (seen * weight).sum(0) / weight.sum()
    wanted = (wanted - (wanted * weight[:, 0]).sum() / weight.sum())[:, None]
    ridge = 1e-2 * torch.eye(inputs.shape[1], dtype=torch.double)
    solved: Tensor = torch.linalg.solve(inputs.T @ (inputs * weight) + ridge, inputs.T @ (wanted * weight))
    return solved[:, 0].float()
