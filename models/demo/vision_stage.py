"""First training stage: the picture encoder alone, with throw-away heads on every image token.

Each of the 8 x 8 tokens learns to say whether an object's centre lies in its cell and, where an object
covers it, that object's shape, colour, size and centre. The heads are dropped afterwards; the tokens keep
the knowledge.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.demo.parallel import average_gradients
from models.demo.pictures import SHARD, load_shard
from models.demo.world import COLOURS, LARGE_ABOVE, SHAPES, SMALL_BELOW, Scene
from ofa.vision import WIDTH, ResNet

GRID = 8
log = logging.getLogger("demo.vision")


class ImageTokens(nn.Module):
    """Picture to embedded image tokens, named as in OFA's encoder: the part that this stage trains."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed_images = ResNet((2, 2, 2))
        self.image_proj = nn.Linear(WIDTH, width)
        self.embed_image_positions = nn.Embedding(GRID * GRID + 1, width)
        self.type_embedding = nn.Embedding(2, width)
        self.patch_layernorm_embedding = nn.LayerNorm(width)
        nn.init.normal_(self.embed_image_positions.weight, std=0.3)
        nn.init.zeros_(self.type_embedding.weight)

    def project(self, pixels: Tensor) -> Tensor:
        """(batch, 3, 128, 128) to (batch, 64, width): what later stages read from a cache."""
        features: Tensor = self.embed_images(pixels)
        projected: Tensor = self.image_proj(features.flatten(2).transpose(1, 2))
        return projected

    def forward(self, pixels: Tensor) -> Tensor:
        """(batch, 3, 128, 128) to (batch, 64, width), positions and type added, normalised."""
        tokens = self.project(pixels) + self.embed_image_positions.weight[1:] + self.type_embedding.weight[1]
        normalised: Tensor = self.patch_layernorm_embedding(tokens)
        return normalised


class Heads(nn.Module):
    """One linear read-out: centre here? (1), shape, colour, size (3), the object's centre x and y (2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = nn.Linear(width, len(SHAPES))
        self.colour = nn.Linear(width, len(COLOURS))
        self.size = nn.Linear(width, 3)
        self.centre = nn.Linear(width, 1)
        self.where = nn.Linear(width, 2)
        self.covered = nn.Linear(width, 1)


def targets(scene: Scene) -> npt.NDArray[np.float32]:
    """(64, 7): covered, centre here, then shape, colour, size class and centre of what is there."""
    grid = np.zeros((GRID, GRID, 7), np.float32)
    mean = math.sqrt(scene.width * scene.height)
    cells = (np.arange(GRID) + 0.5) / GRID
    for thing in scene.things:
        radius = thing.diameter / 2 * mean * 0.8
        inside = (
            ((cells[None, :] - thing.x) * scene.width) ** 2 + ((cells[:, None] - thing.y) * scene.height) ** 2
        ) < radius**2
        row, column = min(int(thing.y * GRID), GRID - 1), min(int(thing.x * GRID), GRID - 1)
        inside[row, column] = True
        size = 0 if thing.diameter < SMALL_BELOW else 2 if thing.diameter > LARGE_ABOVE else 1
        grid[inside] = (1, 0, SHAPES.index(thing.shape), COLOURS.index(thing.colour), size, thing.x, thing.y)
        grid[row, column, 1] = 1
    return grid.reshape(GRID * GRID, 7)


def to_input(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """Bytes (batch, 128, 128, 3) to the network's input (batch, 3, 128, 128) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)


def losses(heads: Heads, tokens: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Each head's mean loss; shape, colour, size and place count where an object covers the cell."""
    covered = wanted[..., 0] > 0
    inside, answer = tokens[covered], wanted[covered]
    binary = functional.binary_cross_entropy_with_logits
    return {
        "covered": binary(heads.covered(tokens).squeeze(-1), wanted[..., 0]),
        "centre": 3 * binary(heads.centre(tokens).squeeze(-1), wanted[..., 1]),
        "shape": functional.cross_entropy(heads.shape(inside), answer[:, 2].long()),
        "colour": functional.cross_entropy(heads.colour(inside), answer[:, 3].long()),
        "size": 0.5 * functional.cross_entropy(heads.size(inside), answer[:, 4].long()),
        "where": 20 * functional.mse_loss(heads.where(inside), answer[:, 5:7]),
    }


@torch.no_grad()
def accuracy(
    model: ImageTokens, heads: Heads, pixels: npt.NDArray[np.uint8], wanted: Tensor
) -> dict[str, float]:
    """Share right at the cells that hold an object's centre, and the exact-count share per picture."""
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        tokens = torch.cat(
            [model(to_input(part)) for part in np.array_split(pixels, max(1, len(pixels) // 100))]
        ).float()
    model.train()
    here = wanted[..., 1] > 0
    found = heads.centre(tokens).squeeze(-1) > 0
    result = {
        "count": float((found.sum(1) == here.sum(1)).float().mean()),
        "cells": float((found == here).all(1).float().mean()),
    }
    for name, column in (("shape", 2), ("colour", 3), ("size", 4)):
        guess = getattr(heads, name)(tokens[here]).argmax(-1)
        result[name] = float((guess == wanted[here][:, column].long()).float().mean())
    result["where"] = float((heads.where(tokens[here]) - wanted[here][:, 5:7]).abs().mean())
    return result


def train(
    rank: int, folder: Path, state_file: Path, width: int, pictures: int, seed: int = 11, batch: int = 40
) -> None:
    """One worker of the training: until `pictures` pictures were seen by each, with a cosine learning rate.

    The first worker logs, measures and saves the state every minute; a run that was cut off goes on from
    there.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(seed)
    model, heads = ImageTokens(width), Heads(width)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01)
    spent, seen = 0.0, 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        spent, seen = state["spent"], state["seen"]
    rng = np.random.default_rng([seed, rank, seen])
    held_pixels, held_scenes = load_shard(folder, 0)
    held_pixels, held = held_pixels[:400], torch.from_numpy(np.stack([targets(s) for s in held_scenes[:400]]))
    shards = sorted(int(file.stem) for file in folder.glob("????.npy") if int(file.stem) > 0)
    last = saved = time.monotonic()
    while seen < pictures:
        pixels, drawn = load_shard(folder, int(rng.choice(shards)))
        wanted = torch.from_numpy(np.stack([targets(scene) for scene in drawn]))
        for part in np.array_split(rng.permutation(SHARD), SHARD // batch):
            rate = (
                2e-3
                * min(1, (seen + batch) / 4000)
                * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, seen / pictures))))
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast("cpu", torch.bfloat16):
                tokens = model(to_input(pixels[part]))
            parts = losses(heads, tokens.float(), wanted[part])
            optimizer.zero_grad()
            sum(parts.values(), torch.zeros(())).backward()
            average_gradients(parameters)
            nn.utils.clip_grad_norm_(parameters, 2.0)
            optimizer.step()
            seen += len(part)
            now = time.monotonic()
            spent, last = spent + now - last, now
            if rank == 0 and seen // batch % 25 == 0:
                log.info(
                    "seen %d %.0fs lr %.1e %s",
                    seen,
                    spent,
                    rate,
                    {k: round(v.item(), 3) for k, v in parts.items()},
                )
            if rank == 0 and (now - saved > 60 or seen >= pictures):
                log.info(
                    "held out %s",
                    {k: round(v, 4) for k, v in accuracy(model, heads, held_pixels, held).items()},
                )
                partial = state_file.with_suffix(".partial")
                torch.save(
                    {
                        "model": model.state_dict(),
                        "heads": heads.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "spent": spent,
                        "seen": seen,
                    },
                    partial,
                )
                partial.rename(state_file)
                saved = time.monotonic()


@torch.no_grad()
def cache_tokens(rank: int, folder: Path, state_file: Path, width: int, out: Path, workers: int) -> None:
    """One worker's share of projecting every picture once; `out` is a (pictures, 64, width) fp16 array."""
    model = ImageTokens(width)
    model.load_state_dict(torch.load(state_file, weights_only=True)["model"])
    model = model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shards = sorted(int(file.stem) for file in folder.glob("????.npy"))
    array = np.lib.format.open_memmap(out, mode="r+")
    for index in shards[rank::workers]:
        pixels, _ = load_shard(folder, index)
        for start in range(0, SHARD, 100):
            with torch.autocast("cpu", torch.bfloat16):
                tokens = model.project(to_input(pixels[start : start + 100]))
            place = index * SHARD + start
            array[place : place + len(tokens)] = tokens.float().numpy().astype(np.float16)
    array.flush()
