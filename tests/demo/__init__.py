"""Tests of the bundled model, its world and its renderers."""

from pathlib import Path

DEMO = Path(__file__).parents[2] / "models" / "demo"
