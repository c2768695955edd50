"""What measures the product and makes its demo model; the product imports nothing from here."""

from pathlib import Path

#: The project's folder.
ROOT = Path(__file__).resolve().parent.parent
