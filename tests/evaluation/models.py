"""Copies of the demo model that differ in one thing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from lab.demo_training import DEMO


def copy(folder: Path) -> Path:
    """Copy the files that a verdict needs."""
    folder.mkdir()
    for path in DEMO.iterdir():
        if path.suffix in (".json", ".txt", ".bin") and path.name != "calibration.json":
            shutil.copy(path, folder)
    return folder


def scaled(folder: Path, factor: float) -> Path:
    """Copy the model with the logits of the answers multiplied: they are linear in the decoder's last
    normalisation."""
    weights = copy(folder) / "pytorch_model.bin"
    state = torch.load(weights, weights_only=True)
    for name in ("decoder.layer_norm.weight", "decoder.layer_norm.bias"):
        state[name] = state[name] * factor
    torch.save(state, weights)
    return folder


def with_premise(folder: Path) -> Path:
    """Copy the model with OFA's own prompts, one of which takes a premise. It was not trained for them."""
    path = copy(folder) / "configuration.json"
    configuration = json.loads(path.read_text())
    del configuration["model"]["prompt"]
    path.write_text(json.dumps(configuration))
    return folder
