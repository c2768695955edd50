"""First training stage: the picture encoder alone, with temporary heads on every image token.

Each of the 8 x 8 tokens learns to predict whether an object's centre lies in its cell and, where an object
covers it, the object's shape, colour, size and centre. The heads are discarded afterwards.
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

from lab.demo_training.parallel import average_gradients
from lab.demo_training.pictures import SHARD, load_shard
from lab.demo_training.world import COLOURS, LARGE_ABOVE, SHAPES, SMALL_BELOW, Scene, Thing
from ofa.vision import WIDTH, ResNet

GRID = 8
RATE = 2e-3
HELD = 400
HEADS_ALONE = 2400  # pictures per worker for new heads on a trained encoder
LEAST_SHARE = 0.02
SHARE = 5  # its column in `targets`
#: Offset and scale from a token's projection on a mark, about -4 to 4, to the quantity.
MARKS = {
    "centre": (-2.0, 0.5),
    "x": (0.5, 0.1),
    "y": (0.5, 0.1),
    "aside": (0.25, 0.05),
    "off": (0.25, 0.05),
}
log = logging.getLogger("demo.vision")


class ImageTokens(nn.Module):
    """From picture to image tokens, named as in OFA's encoder: the part that this stage trains."""

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
        """(batch, 3, 128, 128) to (batch, 64, width); later stages use a cache of it."""
        features: Tensor = self.embed_images(pixels)
        projected: Tensor = self.image_proj(features.flatten(2).transpose(1, 2))
        return projected

    def forward(self, pixels: Tensor) -> Tensor:
        """(batch, 3, 128, 128) to (batch, 64, width), positions and type added, normalised."""
        tokens = self.project(pixels) + self.embed_image_positions.weight[1:] + self.type_embedding.weight[1]
        normalised: Tensor = self.patch_layernorm_embedding(tokens)
        return normalised


class Heads(nn.Module):
    """Linear read-outs: cell covered, shape, colour, size (3) and five marks.

    The marks are the cell's share of an object's centre, the centre's x and y, and its distances from the
    middle on both axes. Their directions are fixed unit vectors, so that the tokens must have a large
    component along them; the transformer did not learn to use small ones.
    """

    marks: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = nn.Linear(width, len(SHAPES))
        self.colour = nn.Linear(width, len(COLOURS))
        self.size = nn.Linear(width, 3)
        self.covered = nn.Linear(width, 1)
        directions = torch.randn(width, len(MARKS), generator=torch.Generator().manual_seed(7))
        self.register_buffer("marks", torch.linalg.qr(directions)[0].T.contiguous())

    def marked(self, tokens: Tensor) -> Tensor:
        """(..., width) to (..., 5): log share of the centre, x, y, and distances from the middle."""
        offset, scale = torch.tensor(list(MARKS.values())).T
        return functional.linear(tokens, self.marks) * scale + offset


def _shares(thing: Thing) -> npt.NDArray[np.float32]:
    """Return (8, 8): each cell's share of the centre, split between the four nearest cells; the sum is 1.

    A whole centre in one cell would be ambiguous at cell borders and useless for counting.
    """
    cells = np.arange(GRID, dtype=np.float32)
    across = np.clip(1 - np.abs(cells - np.clip(thing.x * GRID - 0.5, 0, GRID - 1)), 0, 1)
    down = np.clip(1 - np.abs(cells - np.clip(thing.y * GRID - 0.5, 0, GRID - 1)), 0, 1)
    return np.outer(down, across).astype(np.float32)


def targets(scene: Scene) -> npt.NDArray[np.float32]:
    """Return (64, 10): covered, holds a centre, shape, colour and size class, and the marks: share of the
    centre, x, y, and distances from the middle."""
    grid = np.zeros((GRID, GRID, 10), np.float32)
    mean = math.sqrt(scene.width * scene.height)
    cells = (np.arange(GRID) + 0.5) / GRID
    for thing in scene.things:
        radius = thing.diameter / 2 * mean * 0.8
        shares = _shares(thing)
        inside = (
            ((cells[None, :] - thing.x) * scene.width) ** 2 + ((cells[:, None] - thing.y) * scene.height) ** 2
        ) < radius**2
        inside = (inside | (shares > 0.1)) & (shares >= grid[..., SHARE])
        size = 0 if thing.diameter < SMALL_BELOW else 2 if thing.diameter > LARGE_ABOVE else 1
        grid[inside, 0] = 1
        grid[inside, 2:5] = SHAPES.index(thing.shape), COLOURS.index(thing.colour), size
        grid[inside, 6:] = thing.x, thing.y, abs(thing.x - 0.5), abs(thing.y - 0.5)
        grid[..., SHARE] = np.maximum(grid[..., SHARE], shares)
        grid[min(int(thing.y * GRID), GRID - 1), min(int(thing.x * GRID), GRID - 1), 1] = 1
    return grid.reshape(GRID * GRID, 10)


def to_input(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """Convert bytes (batch, 128, 128, 3) to the network's input (batch, 3, 128, 128) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)


def losses(heads: Heads, tokens: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Return each head's mean loss; shape, colour, size and place only where an object covers the cell."""
    covered = wanted[..., 0] > 0
    inside, answer = tokens[covered], wanted[covered]
    binary = functional.binary_cross_entropy_with_logits
    share = wanted[..., SHARE]
    off = heads.marked(tokens)[..., 0] - share.clamp_min(LEAST_SHARE).log()
    place = (heads.marked(inside)[:, 1:] - answer[:, 6:]).square().mean(0)
    return {
        "covered": binary(heads.covered(tokens).squeeze(-1), wanted[..., 0]),
        "centre": 5 * ((share + 0.03) * off.square()).mean(),
        "shape": functional.cross_entropy(heads.shape(inside), answer[:, 2].long()),
        "colour": functional.cross_entropy(heads.colour(inside), answer[:, 3].long()),
        "size": 0.5 * functional.cross_entropy(heads.size(inside), answer[:, 4].long()),
        "where": 20 * place[:2].sum(),
        "aside": 40 * place[2:].sum(),
    }


@torch.no_grad()
def accuracy(
    model: ImageTokens, heads: Heads, pixels: npt.NDArray[np.uint8], wanted: Tensor
) -> dict[str, float]:
    """Return the accuracy at cells with an object's centre, the share of pictures counted correctly from the
    shares, and the mean errors of the marks."""
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        tokens = torch.cat(
            [model(to_input(part)) for part in np.array_split(pixels, max(1, len(pixels) // 100))]
        ).float()
    model.train()
    here = wanted[..., 1] > 0
    marks = heads.marked(tokens)
    shares = marks[..., 0].exp()
    found = shares.where(shares > 2 * LEAST_SHARE, 0.0).sum(1)
    result = {"count": float((found.round() == wanted[..., SHARE].sum(1).round()).float().mean())}
    for name, column in (("shape", 2), ("colour", 3), ("size", 4)):
        guess = getattr(heads, name)(tokens[here]).argmax(-1)
        result[name] = float((guess == wanted[here][:, column].long()).float().mean())
    error = (marks[here][:, 1:] - wanted[here][:, 6:]).abs()
    return {**result, "where": float(error[:, :2].mean()), "aside": float(error[:, 2:].mean())}


class Trainer:
    """One worker; the first one logs, evaluates and saves the state every minute.

    An interrupted run resumes from the state. A state without heads (`train.start_from_weights`) first trains
    only the heads, so that their initial errors do not damage the encoder.
    """

    def __init__(self, rank: int, folder: Path, state_file: Path, width: int, seed: int) -> None:
        torch.manual_seed(seed)
        model = ImageTokens(width)
        self.model: ImageTokens = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.heads = Heads(width)
        self.rank, self.state_file, self.folder = rank, state_file, folder
        self.parameters = [*self.model.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(
            [{"params": list(part.parameters())} for part in (self.model, self.heads)], weight_decay=0.01
        )
        self.spent, self.seen, self.rate, self.alone = 0.0, 0, RATE, 0
        if state_file.exists():
            self._resume()
        self.rng = np.random.default_rng([seed, rank, self.seen])
        pixels, scenes = load_shard(folder, 0)
        self.held = pixels[:HELD], torch.from_numpy(np.stack([targets(scene) for scene in scenes[:HELD]]))

    def _resume(self) -> None:
        state = torch.load(self.state_file, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.rate = state.get("rate", RATE)
        if "heads" not in state:
            self.alone = HEADS_ALONE
            return
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.spent, self.seen = state["spent"], state["seen"]

    def save(self) -> None:
        held = accuracy(self.model, self.heads, *self.held)
        log.info("held out %s", {name: round(value, 4) for name, value in held.items()})
        partial = self.state_file.with_suffix(".partial")
        torch.save(
            {
                "model": self.model.state_dict(),
                "heads": self.heads.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "spent": self.spent,
                "seen": self.seen,
                "rate": self.rate,
            },
            partial,
        )
        partial.rename(self.state_file)

    def set_rate(self, pictures: int) -> None:
        """Return the learning rate: a short warm-up, then a cosine to 1/50; new heads train alone first."""
        seen = self.seen - self.alone
        fall = 0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, max(0, seen) / max(1, pictures - self.alone))))
        trunk, heads = self.optimizer.param_groups
        trunk["lr"] = self.rate * min(1.0, max(0.0, seen / 4000)) * fall
        heads["lr"] = max(RATE * fall, trunk["lr"]) if self.alone else trunk["lr"]

    def step(self, pixels: npt.NDArray[np.uint8], wanted: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            tokens = self.model(to_input(pixels))
        parts = losses(self.heads, tokens.float(), wanted)
        self.optimizer.zero_grad()
        sum(parts.values(), torch.zeros(())).backward()
        average_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 2.0)
        self.optimizer.step()
        self.seen += len(pixels)
        return parts

    def run(self, pictures: int, batch: int = 40) -> None:
        """Train until this worker has seen `pictures` pictures."""
        shards = sorted(int(file.stem) for file in self.folder.glob("????.npy") if int(file.stem) > 0)
        last = saved = time.monotonic()
        while self.seen < pictures:
            pixels, drawn = load_shard(self.folder, int(self.rng.choice(shards)))
            wanted = torch.from_numpy(np.stack([targets(scene) for scene in drawn]))
            for part in np.array_split(self.rng.permutation(SHARD), SHARD // batch):
                self.set_rate(pictures)
                parts = self.step(pixels[part], wanted[part])
                now = time.monotonic()
                self.spent, last = self.spent + now - last, now
                if self.rank == 0 and self.seen // batch % 25 == 0:
                    shown = {name: round(value.item(), 3) for name, value in parts.items()}
                    log.info("seen %d %.0fs %s", self.seen, self.spent, shown)
                if self.rank == 0 and (now - saved > 60 or self.seen >= pictures):
                    self.save()
                    saved = time.monotonic()


def train(
    rank: int, folder: Path, state_file: Path, width: int, pictures: int, seed: int = 11, batch: int = 40
) -> None:
    """Run one worker until each has seen `pictures` pictures, with a cosine learning rate."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    Trainer(rank, folder, state_file, width, seed).run(pictures, batch)


@torch.no_grad()
def cache_tokens(rank: int, folder: Path, state_file: Path, width: int, out: Path, workers: int) -> None:
    """Project one worker's share of the pictures into `out`, a (pictures, 64, width) fp16 array."""
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
