"""The downloadable example of a list: the model's example pictures and a CSV in one zip."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence

from page.card import Example


def example_zip(examples: Sequence[Example]) -> bytes:
    """Return the zip. Raises OSError if a picture cannot be read."""
    images = dict.fromkeys(example.image for example in examples)
    names = {image: f"pictures/{number}{image.suffix}" for number, image in enumerate(images, 1)}
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    rows.writerow(["image", "text", "premise", "expected"])
    for example in examples:
        rows.writerow([names[example.image], example.hypothesis, example.premise, example.label])
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("list.csv", table.getvalue())
        for image, name in names.items():
            archive.write(image, name)
    return content.getvalue()
