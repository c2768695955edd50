"""Render the training pictures once, at network resolution (128 x 128), into resumable shards."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from lab.demo_training.render import render
from lab.demo_training.world import PRIMARY, WIDE, Scene, scenes

SIDE = 128
SHARD = 2000
COUNTS = (0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5)


def as_seen(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """Return (128, 128, 3) bytes, resized as in the model's preprocessing."""
    return np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _render_shard(folder: Path, seed: int, index: int) -> None:
    """Write one shard; those with odd numbers have wider styles."""
    wide = index % 2 == 1
    stream = scenes(seed * 100_003 + index, COUNTS, WIDE if wide else PRIMARY)
    drawn = [next(stream) for _ in range(SHARD)]
    pixels = np.stack([as_seen(render(scene, wide)) for scene in drawn])
    with (folder / f"{index:04d}.pickle").open("wb") as file:
        pickle.dump(drawn, file)
    partial = folder / f"{index:04d}.partial.npy"
    np.save(partial, pixels)
    partial.rename(folder / f"{index:04d}.npy")


def render_all(folder: Path, seed: int, count: int, processes: int = 2) -> None:
    """Render `count` pictures; existing shards are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [i for i in range(-(-count // SHARD)) if not (folder / f"{i:04d}.npy").exists()]
    with ProcessPoolExecutor(processes) as pool:
        jobs = [pool.submit(_render_shard, folder, seed, index) for index in missing]
        for job in tqdm(jobs, desc="rendering", unit="shard", mininterval=10):
            job.result()


def load_shard(folder: Path, index: int) -> tuple[npt.NDArray[np.uint8], list[Scene]]:
    """Return a shard's pixels (2000, 128, 128, 3) and scenes. It unpickles: use it only on own files."""
    with (folder / f"{index:04d}.pickle").open("rb") as file:
        drawn: list[Scene] = pickle.load(file)
    return np.load(folder / f"{index:04d}.npy"), drawn
