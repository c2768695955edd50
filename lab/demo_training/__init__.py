"""Make the bundled demo model: its world, pictures, sentences, training and evaluation."""

from typing import Final

from lab import ROOT

DEMO: Final = ROOT / "models" / "demo"
