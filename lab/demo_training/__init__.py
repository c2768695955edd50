"""Makes the bundled model: its world, pictures, sentences, training and evaluation."""

from pathlib import Path
from typing import Final

DEMO: Final = Path(__file__).resolve().parents[2] / "models" / "demo"
