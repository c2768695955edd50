"""Second training stage: the transformer, over cached picture tokens, by a curriculum gated on held-out
accuracy.

Everything at once does not take off; existence with one quality on pictures of one or two things, with open
questions beside it, does. Each stage is left when every category of it is good enough, not after some time.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from models.demo.folder import ANSWERS, PROMPT, WORDS
from models.demo.packed import GRID, answer_states, blind_pictures
from models.demo.parallel import agree, average_gradients
from models.demo.pictures import SHARD, load_shard
from models.demo.sentences import Sentence, Writer
from models.demo.world import COLOURS, SHAPES, SIZES, Scene
from ofa.network import OFA
from ofa.tokenizer import Tokenizer, clean_caption

log = logging.getLogger("demo.language")
PICTURES, SENTENCES = 10, 16  # a worker's batch
RATE = 1e-3
PLACE_STRENGTH = 6.0
FLOOR = 0.02
DROPPED = (
    "count",
    "centre or corner",
    "relation",
)  # did not take off; a few are kept so that the model stays unsure about them
DECAY = 0.99  # of the running mean of the weights, which is what is measured and kept


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: what is asked, about how many things, and the accuracy that ends it."""

    name: str
    categories: tuple[str, ...]
    things: tuple[int, ...]
    questions: float
    gate: float
    most: int = 3


_FIRST = ("existence", "colour", "maybe")
_SECOND = (*_FIRST, "size", "negation", "conjunction")
_THIRD = (*_SECOND, "place", "relation")
_FOURTH = (*_THIRD, "all or none")
_ALL = (*_FOURTH, "centre or corner", "count")
STAGES = (
    Stage("trivial", ("existence",), (1, 2), 0.4, 0.95, most=1),
    Stage("first version", _FIRST, (0, 1, 2, 3), 0.2, 0.975),
    Stage("qualities", _SECOND, (0, 1, 2, 3, 4, 5), 0.2, 0.95),
    Stage("halves", ("existence", "place"), (1, 2), 0.4, 0.92),
    Stage("places", _FOURTH, (0, 1, 2, 3, 4, 5), 0.15, 0.93),
    Stage("numbers", ("count", "place", "relation"), (0, 1, 2, 3, 4, 5), 0.4, 0.85),
    Stage("everything", _ALL, (0, 1, 2, 3, 4, 5), 0.1, 0.99),
    Stage("finish", _ALL, (0, 1, 2, 3, 4, 5), 0.1, 2.0),
)


class Pictures:
    """Cached picture tokens and their scenes; the first shard is held out."""

    def __init__(self, folder: Path, tokens: Path) -> None:
        self.tokens: npt.NDArray[np.float16] = np.load(tokens, mmap_mode="r")
        shards = len(self.tokens) // SHARD
        self.scenes: list[Scene] = [
            scene for index in range(shards) for scene in load_shard(folder, index)[1]
        ]

    def pool(self, things: tuple[int, ...], held: bool) -> list[int]:
        """Indices of pictures with one of these numbers of things."""
        span = range(SHARD) if held else range(SHARD, len(self.scenes))
        return [index for index in span if len(self.scenes[index].things) in things]


class Encoder:
    """Sentences to padded ids, as `ofa.tokenizer.build_source` makes them; words are looked up once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}
        self.answers = [tokenizer.encode(" " + answer)[0] for answer in (*ANSWERS, *WORDS)]
        self.index = {answer: place for place, answer in enumerate((*ANSWERS, *WORDS))}

    def ids(self, text: str) -> list[int]:
        known = self._known.get(text)
        if known is None:
            tokens = self._tokenizer.encode(PROMPT.format(clean_caption(text, 60)))
            known = self._known[text] = [self._tokenizer.bos, *tokens, self._tokenizer.eos]
        return known

    def batch(self, rows: list[list[Sentence]]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (pictures, sentences, length), lengths and answers (pictures, sentences)."""
        ids = [[self.ids(sentence.text) for sentence in row] for row in rows]
        longest = max(len(one) for row in ids for one in row)
        tokens = torch.tensor(
            [[one + [self._tokenizer.pad] * (longest - len(one)) for one in row] for row in ids]
        )
        lengths = torch.tensor([[len(one) for one in row] for row in ids])
        return (
            tokens,
            lengths,
            torch.tensor([[self.index[sentence.answer] for sentence in row] for row in rows]),
        )


def answer_logits(network: OFA, answers: list[int], states: Tensor, wanted: Tensor) -> Tensor:
    """Logits of yes, no and maybe for statements, of the words for open questions; the others are masked."""
    logits = functional.linear(states.float(), network.encoder.embed_tokens.weight[answers])
    statement = (wanted < len(ANSWERS))[..., None]
    is_answer = torch.arange(len(answers)) < len(ANSWERS)
    return logits.masked_fill(statement != is_answer, -1e4)


def start_from_vision(
    network: OFA, vision: dict[str, dict[str, Tensor]], tokenizer: Tokenizer, seed: int
) -> None:
    """Initial weights: the picture encoder, words along what the picture tokens say, keys like queries."""
    torch.manual_seed(seed)
    network.encoder.load_state_dict(vision["model"], strict=False)
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and "layers" in name:
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    table = network.encoder.embed_tokens.weight.data
    nn.init.normal_(table, std=table.shape[1] ** -0.5)
    for head, words in (("shape", SHAPES), ("colour", COLOURS), ("size", (SIZES[0], "", SIZES[1]))):
        weight = vision["heads"][f"{head}.weight"]
        for row, word in zip(functional.normalize(weight - weight.mean(0), dim=1), words, strict=True):
            plural = "crosses" if word == "cross" else word + "s"
            for spelling in (word, plural, "big" if word == "large" else ""):
                ids = tokenizer.encode(" " + spelling) if spelling else []
                if len(ids) == 1:
                    table[ids[0]] = row + 0.2 * table[ids[0]]
    for positions in (network.encoder.embed_positions, network.decoder.embed_positions):
        nn.init.normal_(positions.weight, std=0.04)
    for layer in network.encoder.layers:
        layer.self_attn.k_proj.weight.data.copy_(layer.self_attn.q_proj.weight)
    for layer in network.decoder.layers:
        layer.cross_attn.k_proj.weight.data.copy_(layer.cross_attn.q_proj.weight)
    for tables in (
        network.encoder.token_rel_pos_table_list,
        network.encoder.image_rel_pos_table_list,
        network.decoder.token_rel_pos_table_list,
    ):
        for relative in tables:
            nn.init.zeros_(relative.weight)
    mark_places(network, vision, tokenizer)
    blind_pictures(network)


@torch.no_grad()
def mark_places(network: OFA, vision: dict[str, dict[str, Tensor]], tokenizer: Tokenizer) -> None:
    """Make a token's place as loud as its colour, and lay the words of place along it.

    Trained for shapes, the picture tokens carry their place at a quarter of the strength of everything else,
    and sentences about places stay at chance. Four directions are added to the position embeddings: across,
    down, and the distances from the middle both ways.
    """
    seed = torch.Generator().manual_seed(7)
    wanted = torch.cat(
        [vision["heads"]["where.weight"], torch.randn(2, network.config.d_model, generator=seed)]
    )
    basis = torch.linalg.qr(wanted.T)[0]
    across, down, aside, off = (basis * torch.sign((wanted @ basis).diag())).T
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


def share_for(category: str, accuracy: float) -> float:
    """The share of the next sentences that a category of this held-out accuracy gets: the weakest most."""
    return FLOOR if category in ("maybe", *DROPPED) else FLOOR + 1 - accuracy


class Trainer:
    """One worker: a stage's batches, steps, measurements, and the saved state."""

    def __init__(
        self, rank: int, network: OFA, tokenizer: Tokenizer, pictures: Pictures, state_file: Path, seed: int
    ) -> None:
        self.rank, self.network, self.pictures, self.state_file, self.seed = (
            rank,
            network,
            pictures,
            state_file,
            seed,
        )
        self.encoder = Encoder(tokenizer)
        network.encoder.embed_images.requires_grad_(False)
        network.encoder.image_proj.requires_grad_(False)
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.mean = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
        self.step, self.spent, self.stage, self.stage_step = 0, 0.0, 0, 0
        self.shares: dict[str, float] = {}
        self.mark = time.monotonic()
        if state_file.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.state_file, weights_only=True)
        self.network.load_state_dict(state["network"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.mean = state["mean"]
        self.step, self.spent, self.stage = state["step"], state["spent"], state["stage"]
        self.stage_step, self.shares = state["stage_step"], state["shares"]

    def save(self) -> None:
        partial = self.state_file.with_suffix(".partial")
        torch.save(
            {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "mean": self.mean,
                "step": self.step,
                "spent": self.spent,
                "stage": self.stage,
                "stage_step": self.stage_step,
                "shares": self.shares,
            },
            partial,
        )
        partial.rename(self.state_file)

    def rows(
        self, writer: Writer, pool: list[int], rng: random.Random
    ) -> tuple[Tensor, list[list[Sentence]]]:
        """A batch: picture tokens (pictures, 64, width) and the sentences about each."""
        chosen = [rng.choice(pool) for _ in range(PICTURES)]
        tokens = torch.from_numpy(np.stack([self.pictures.tokens[index] for index in chosen])).float()
        return tokens, [
            [writer.write(self.pictures.scenes[index]) for _ in range(SENTENCES)] for index in chosen
        ]

    def train_step(self, tokens: Tensor, rows: list[list[Sentence]], rate: float) -> tuple[float, float]:
        ids, lengths, wanted = self.encoder.batch(rows)
        with torch.autocast("cpu", torch.bfloat16):
            states = answer_states(self.network, tokens, ids, lengths)
        logits = answer_logits(self.network, self.encoder.answers, states, wanted)
        loss = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        average_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        blind_pictures(self.network)
        self.step += 1
        self.stage_step += 1
        decay = min(DECAY, self.step / (self.step + 20))
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if name in self.mean:
                    self.mean[name].lerp_(parameter, 1 - decay)
        return loss.item(), float((logits.argmax(-1) == wanted).float().mean())

    def swap(self) -> None:
        """Exchange the weights with their running mean."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if name in self.mean:
                    kept = parameter.clone()
                    parameter.copy_(self.mean[name])
                    self.mean[name] = kept

    @torch.no_grad()
    def measure(self, stage: Stage, batches: int = 5) -> dict[str, float]:
        """Held-out accuracy of each category, over all workers' batches, of the mean weights."""
        rng = random.Random(99 + self.rank)
        names = [*stage.categories, "question"]
        writer = Writer(
            rng, dict.fromkeys(names if stage.questions else stage.categories, 1.0), most=stage.most
        )
        pool = self.pictures.pool(stage.things, held=True)
        counts = torch.zeros(len(names), 2, dtype=torch.float64)
        self.swap()
        for _ in range(batches):
            tokens, rows = self.rows(writer, pool, rng)
            ids, lengths, wanted = self.encoder.batch(rows)
            with torch.autocast("cpu", torch.bfloat16):
                states = answer_states(self.network, tokens, ids, lengths)
            right = answer_logits(self.network, self.encoder.answers, states, wanted).argmax(-1) == wanted
            for row, oks in zip(rows, right.tolist(), strict=True):
                for sentence, ok in zip(row, oks, strict=True):
                    counts[names.index(sentence.category)] += torch.tensor([ok, 1.0], dtype=torch.float64)
        self.swap()
        dist.all_reduce(counts)
        return {
            name: float(right / max(1, all_))
            for name, (right, all_) in zip(names, counts, strict=True)
            if all_
        }

    def run(self, finish_minutes: float) -> None:
        """The curriculum from where it stands to the end of the finishing stage."""
        while self.stage < len(STAGES):
            self._run_stage(STAGES[self.stage], finish_minutes)
            self.stage, self.stage_step, self.shares = self.stage + 1, 0, {}
            if self.rank == 0:
                self.save()

    def _run_stage(self, stage: Stage, finish_minutes: float) -> None:
        log.info("stage %s", stage.name)
        last = stage.name == "finish"
        rng = random.Random(f"{self.seed} {self.rank} {self.step}")
        shares = self.shares or dict.fromkeys(stage.categories, 1.0)
        pool = self.pictures.pool(stage.things, held=False)
        begun = self.mark = saved = time.monotonic()
        writer = Writer(rng, self._with_questions(shares, stage), most=stage.most)
        total = correct = minutes = 0.0
        while True:
            if last and self.step % 10 == 0:
                minutes = agree((time.monotonic() - begun) / 60)
            progress = min(1.0, minutes / finish_minutes)
            rate = (
                RATE
                * min(1.0, (self.step + 1) / 150)
                * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)) if last else 1.0)
            )
            loss, accuracy = self.train_step(*self.rows(writer, pool, rng), rate)
            total, correct = total + loss, correct + accuracy
            if self.step % 25 == 0:
                self._clock()
                log.info(
                    "step %d %.0fs %s loss %.3f accuracy %.3f",
                    self.step,
                    self.spent,
                    stage.name,
                    total / 25,
                    correct / 25,
                )
                total = correct = 0.0
            if self.step % 100 == 0 or progress >= 1:
                result = self.measure(stage)
                log.info("held out %s", json.dumps({name: round(value, 3) for name, value in result.items()}))
                self.shares = {
                    name: share_for(name, value) for name, value in result.items() if name != "question"
                }
                writer.shares = self._with_questions(self.shares, stage)
                if progress >= 1 or (
                    not last
                    and min(value for name, value in result.items() if name != "question") >= stage.gate
                ):
                    return
            if self.rank == 0 and time.monotonic() - saved > 60:
                self.save()
                saved = time.monotonic()

    @staticmethod
    def _with_questions(shares: dict[str, float], stage: Stage) -> dict[str, float]:
        total = sum(shares.values()) / (1 - stage.questions)
        scaled = {name: value / total for name, value in shares.items()}
        return {**scaled, "question": stage.questions} if stage.questions else scaled

    def _clock(self) -> None:
        now = time.monotonic()
        self.spent, self.mark = self.spent + now - self.mark, now
