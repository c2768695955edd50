"""Second training stage: the transformer, over cached picture tokens, by the stages of `curriculum.py`."""

from __future__ import annotations

import logging
import math
import random
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from lab.demo_training.curriculum import STAGES, Stage
from lab.demo_training.folder import ANSWERS, PROMPT, WORDS
from lab.demo_training.packed import answer_states, blind_pictures
from lab.demo_training.parallel import agree, average_gradients
from lab.demo_training.pictures import SHARD, load_shard
from lab.demo_training.sentences import Sentence, Writer
from lab.demo_training.world import Scene
from ofa.network import OFA
from ofa.tokenizer import Tokenizer, clean_caption

log = logging.getLogger("demo.language")
PICTURES, SENTENCES = 10, 16  # a worker's batch
RATE = 1e-3
DECAY = 0.99  # decay of the running mean of the weights, which is evaluated and kept


class Pictures:
    """Cached picture tokens and their scenes; the first shard is held out."""

    def __init__(self, folder: Path, tokens: Path) -> None:
        self.tokens: npt.NDArray[np.float16] = np.load(tokens, mmap_mode="r")
        shards = len(self.tokens) // SHARD
        self.scenes: list[Scene] = [
            scene for index in range(shards) for scene in load_shard(folder, index)[1]
        ]

    def pool(self, things: tuple[int, ...], held: bool) -> list[int]:
        """Return indices of pictures with one of these numbers of things."""
        span = range(SHARD) if held else range(SHARD, len(self.scenes))
        return [index for index in span if len(self.scenes[index].things) in things]


class Encoder:
    """Turn sentences into padded ids, as `ofa.tokenizer.build_source` does, with a cache of words."""

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
        """Return tokens (pictures, sentences, length), lengths and answers (pictures, sentences)."""
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
    """Return logits of yes, no and maybe for statements, of words for open questions; others masked."""
    logits = functional.linear(states.float(), network.encoder.embed_tokens.weight[answers])
    statement = (wanted < len(ANSWERS))[..., None]
    is_answer = torch.arange(len(answers)) < len(ANSWERS)
    return logits.masked_fill(statement != is_answer, -1e4)


class Trainer:
    """One worker: batches, steps, evaluations and saved state of a stage."""

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
        self.most_rate = RATE
        self.accuracy: dict[str, float] = {}
        self._recent: list[tuple[float, float]] = []
        self.mark = time.monotonic()
        if state_file.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.state_file, weights_only=True)
        self.network.load_state_dict(state["network"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.mean, self.most_rate = state["mean"], state.get("rate", RATE)
        self.step, self.spent, self.stage = state["step"], state["spent"], state["stage"]
        self.stage_step, self.accuracy = state["stage_step"], state["accuracy"]

    def save(self) -> None:
        partial = self.state_file.with_suffix(".partial")
        torch.save(
            {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "mean": self.mean,
                "step": self.step,
                "rate": self.most_rate,
                "spent": self.spent,
                "stage": self.stage,
                "stage_step": self.stage_step,
                "accuracy": self.accuracy,
            },
            partial,
        )
        partial.rename(self.state_file)

    def rows(
        self, writer: Writer, pool: list[int], rng: random.Random
    ) -> tuple[Tensor, list[list[Sentence]]]:
        """Return a batch: picture tokens (pictures, 64, width) and the sentences about each."""
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
        """Swap the weights with their running mean."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if name in self.mean:
                    kept = parameter.clone()
                    parameter.copy_(self.mean[name])
                    self.mean[name] = kept

    @torch.no_grad()
    def measure(self, stage: Stage, batches: int = 8) -> dict[str, float]:
        """Return the held-out accuracy by category of the mean weights, over all workers."""
        rng = random.Random(99 + self.rank)
        names = list(stage.shares({}))
        writer = Writer(rng, dict.fromkeys(names, 1.0), most=stage.most, topics=stage.categories)
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
        """Run the curriculum from the saved state to its end."""
        while self.stage < len(STAGES):
            self._run_stage(STAGES[self.stage], finish_minutes)
            self.stage, self.stage_step, self.accuracy = self.stage + 1, 0, {}
            if self.rank == 0:
                self.save()

    def _run_stage(self, stage: Stage, finish_minutes: float) -> None:
        log.info("stage %s", stage.name)
        rng = random.Random(f"{self.seed} {self.rank} {self.step}")
        pool = self.pictures.pool(stage.things, held=False)
        shares = stage.shares(self.accuracy)
        writer = Writer(rng, shares, most=stage.most, topics=stage.categories)
        begun = self.mark = saved = time.monotonic()
        progress = 0.0
        while True:
            if stage is STAGES[-1] and self.step % 10 == 0:
                progress = min(1.0, agree((time.monotonic() - begun) / 60) / finish_minutes)
            self._log(stage, *self.train_step(*self.rows(writer, pool, rng), self.rate(progress)))
            ended = progress >= 1 or self.stage_step >= stage.steps
            if self.step % 100 == 0 or ended:
                self.accuracy = self.measure(stage)
                log.info("held out %s", {name: round(value, 3) for name, value in self.accuracy.items()})
                writer.shares = stage.shares(self.accuracy)
                if ended or min(self.accuracy[name] for name in stage.categories) >= stage.gate:
                    return
            if self.rank == 0 and time.monotonic() - saved > 60:
                self.save()
                saved = time.monotonic()

    def rate(self, progress: float) -> float:
        """Return the learning rate: warm-up, constant, and a decay to 1/50 in the last stage."""
        fall = 0.02 + 0.49 * (1 + math.cos(math.pi * progress))
        return self.most_rate * min(1.0, (self.step + 1) / 150) * fall

    def _log(self, stage: Stage, loss: float, accuracy: float) -> None:
        now = time.monotonic()
        self.spent, self.mark = self.spent + now - self.mark, now
        self._recent.append((loss, accuracy))
        if self.step % 25 == 0:
            mean_loss, mean_accuracy = (
                sum(column) / len(column) for column in zip(*self._recent, strict=True)
            )
            log.info(
                "step %d %.0fs %s loss %.3f accuracy %.3f",
                *(self.step, self.spent, stage.name, mean_loss, mean_accuracy),
            )
            self._recent.clear()
