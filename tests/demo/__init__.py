"""Tests of the bundled model, of the world it knows and of how that world is drawn."""

from pathlib import Path

DEMO = Path(__file__).parents[2] / "models" / "demo"
