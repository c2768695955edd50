"""Train the demo model from scratch: `python -m lab.demo_training.train`.

Four resumable steps: render pictures, train the picture encoder, cache its tokens, train the transformer by a
curriculum. `--from-weights` starts from the committed weights. `--export` writes the weights of the current
state.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Final

import numpy as np
import torch

from lab import ROOT
from lab.demo_training import DEMO, parallel, vision_stage
from lab.demo_training import folder as model_folder
from lab.demo_training.curriculum import STAGES
from lab.demo_training.head_start import start_from_vision, weigh_things
from lab.demo_training.language_stage import RATE, Pictures, Trainer
from lab.demo_training.packed import blind_pictures
from lab.demo_training.pictures import SHARD, render_all
from ofa.checkpoint import load_weights
from ofa.config import NetworkConfig
from ofa.network import OFA
from ofa.tokenizer import Tokenizer

SEED = 1
SAMPLE = 300  # pictures to fit the weighing heads
SHARED_EMBEDDING = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.output_projection.weight",
)

TRAINING: Final = ROOT / "build" / "demo_training"


def small_network(tokenizer: Tokenizer) -> OFA:
    """Return the network without the 9192 code and bin rows, which training does not use."""
    config = dataclasses.replace(NetworkConfig.from_folder(DEMO), vocab_size=tokenizer.base_size)
    return OFA(config)


def whole_network(small: OFA) -> OFA:
    """Return the network with those rows as zeros, as ModelScope's class requires."""
    network = OFA(NetworkConfig.from_folder(DEMO))
    state = small.state_dict()
    table = torch.zeros_like(network.encoder.embed_tokens.weight)
    table[: len(state["encoder.embed_tokens.weight"])] = state["encoder.embed_tokens.weight"]
    for name in SHARED_EMBEDDING:
        state[name] = table
    network.load_state_dict(state)
    return network


def train_language(rank: int, training: Path, cache: Path, finish_minutes: float) -> None:
    """Run one worker of the second stage."""
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING, format="%(asctime)s %(message)s"
    )
    tokenizer = Tokenizer.from_folder(DEMO)
    network = small_network(tokenizer)
    fresh = not (training / "language.pt").exists()
    if fresh:
        start_from_vision(network, torch.load(training / "vision.pt", weights_only=True), tokenizer, SEED)
    pictures = Pictures(cache / "pictures", cache / "tokens.npy")
    trainer = Trainer(rank, network, tokenizer, pictures, training / "language.pt", SEED)
    if fresh:
        tokens = torch.from_numpy(pictures.tokens[:SAMPLE].astype(np.float32))
        marks = np.stack([vision_stage.targets(scene) for scene in pictures.scenes[:SAMPLE]])
        weigh_things(network, tokens, torch.from_numpy(marks[..., vision_stage.SHARE]))
    trainer.run(finish_minutes)


def start_from_weights(training: Path, stage: str) -> None:
    """Convert the committed weights into states from which the given stage continues, at a lower rate."""
    tokenizer = Tokenizer.from_folder(DEMO)
    whole, small = OFA(NetworkConfig.from_folder(DEMO)), small_network(tokenizer)
    load_weights(whole, DEMO)
    state = whole.state_dict()
    for name in SHARED_EMBEDDING:
        state[name] = state[name][: tokenizer.base_size].clone()
    small.load_state_dict(state)
    wanted = vision_stage.ImageTokens(whole.config.d_model).state_dict()
    seen = {name: state["encoder." + name] for name in wanted}
    torch.save({"model": seen, "rate": vision_stage.RATE / 2}, training / "vision.pt")
    mean = {name: parameter.detach().clone() for name, parameter in small.named_parameters()}
    frozen = ("encoder.embed_images.", "encoder.image_proj.")
    torch.save({"network": small.state_dict(), "step": 0, "spent": 0.0, "stage_step": 0, "accuracy": {},
                "rate": 0.7 * RATE,
                "mean": {name: value for name, value in mean.items() if not name.startswith(frozen)},
                "stage": [one.name for one in STAGES].index(stage)}, training / "language.pt")  # fmt: skip


def adopt_vision(training: Path) -> None:
    """Put the refined picture encoder into the initial state of the transformer."""
    state = torch.load(training / "language.pt", weights_only=True)
    if state["step"]:
        return
    for name, value in torch.load(training / "vision.pt", weights_only=True)["model"].items():
        state["network"]["encoder." + name] = value
        if "encoder." + name in state["mean"]:
            state["mean"]["encoder." + name] = value.clone()
    torch.save(state, training / "language.pt")


def export(training: Path, out: Path) -> None:
    """Write `pytorch_model.bin` from the running mean of the second stage's weights.

    The states' folder `full_precision` keeps them unrounded for the evaluation.
    """
    state = torch.load(training / "language.pt", weights_only=True)
    network = small_network(Tokenizer.from_folder(DEMO))
    network.load_state_dict({**state["network"], **state["mean"]}, strict=False)
    network.tie_embeddings()
    blind_pictures(network)
    whole = whole_network(network)
    full = training / "full_precision"
    full.mkdir(exist_ok=True)
    for name in model_folder.TEXT_FILES:
        shutil.copy(DEMO / name, full / name)
    model_folder.write_weights(whole, full, torch.float32)
    model_folder.write_weights(whole, out)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--training", type=Path, default=TRAINING, help="states that a cut run goes on from")
    add("--cache", type=Path, default=TRAINING, help="rendered pictures and tokens, 5 GB")
    add("--pictures", type=int, default=60_000)
    add("--workers", type=int, default=2, help="processes, one core each")
    add("--vision-pictures", type=int, default=27_000, help="pictures each worker sees in the first stage")
    add("--finish-minutes", type=float, default=20.0, help="length of the last stage, with falling rate")
    add(
        "--from-weights",
        metavar="STAGE",
        choices=[one.name for one in STAGES],
        help="begin with the committed weights and this stage of the curriculum, where no state is there yet",
    )
    add("--export", action="store_true", help="only write the weights of the state as it is")
    return parser.parse_args()


def cache_tokens(options: argparse.Namespace, pictures: Path, vision: Path, tokens: Path) -> None:
    """Write the picture encoder's tokens of every picture, atomically."""
    width = NetworkConfig.from_folder(DEMO).d_model
    partial = tokens.with_suffix(".partial")
    count = -(-options.pictures // SHARD) * SHARD
    shape = (count, vision_stage.GRID**2, width)
    np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
    parallel.run(
        options.workers, vision_stage.cache_tokens, pictures, vision, width, partial, options.workers
    )
    partial.rename(tokens)


def main() -> None:
    options = read_options()
    options.training.mkdir(parents=True, exist_ok=True)
    if options.export:
        export(options.training, DEMO)
        return
    if not (DEMO / "vocab.json").exists():
        model_folder.write_tokenizer(DEMO)
    model_folder.write_configuration(DEMO)
    pictures, vision = options.cache / "pictures", options.training / "vision.pt"
    render_all(pictures, SEED, options.pictures, options.workers)
    if options.from_weights and not vision.exists():
        start_from_weights(options.training, options.from_weights)
    width = NetworkConfig.from_folder(DEMO).d_model
    parallel.run(options.workers, vision_stage.train, pictures, vision, width, options.vision_pictures)
    if (options.training / "language.pt").exists():
        adopt_vision(options.training)
    tokens = options.cache / "tokens.npy"
    if not tokens.exists():
        cache_tokens(options, pictures, vision, tokens)
    parallel.run(options.workers, train_language, options.training, options.cache, options.finish_minutes)
    export(options.training, DEMO)


if __name__ == "__main__":
    main()
