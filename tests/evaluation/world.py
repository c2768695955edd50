"""Data in the published formats, drawn from the demo model's world."""

from __future__ import annotations

import base64
import csv
import functools
import json
from collections.abc import Sequence
from pathlib import Path

from lab.demo_training.pairs import HeldOut, held_out

#: Kinds of sentences that the demo model knows.
KINDS = ("existence", "colour", "negation", "conjunction", "maybe")
#: Kinds that it does not know well enough to be right, or to know when it is wrong.
HARD = ("count", "relation")
PUBLISHED = {"yes": "entailment", "no": "contradiction", "maybe": "neutral"}
PREMISE = "A picture of shapes."


@functools.cache
def pairs(count: int = 24, kinds: Sequence[str] = KINDS) -> tuple[HeldOut, ...]:
    """Return pairs of pictures and sentences, four of each picture."""
    return tuple(held_out(count, kinds, "primary", seed=4))


def name(position: int) -> str:
    """Return the name of a pair's picture, without suffix."""
    return f"{1000 + position // 4}"


def draw(folder: Path, chosen: Sequence[HeldOut]) -> Path:
    """Write the pictures."""
    folder.mkdir(exist_ok=True)
    for position in range(0, len(chosen), 4):
        chosen[position].picture.save(folder / f"{name(position)}.jpg", quality=95)
    return folder


def snli_ve(path: Path, chosen: Sequence[HeldOut], key: str = "Flickr30K_ID") -> Path:
    lines = []
    for position, pair in enumerate(chosen):
        label = PUBLISHED[pair.sentence.answer]
        entry = {
            key: name(position),
            "annotator_labels": [label] * 5,
            "captionID": f"{name(position)}.jpg#0",
            "gold_label": label,
            "pairID": f"{name(position)}.jpg#0r{position % 4}",
            "sentence1": PREMISE,
            "sentence1_binary_parse": "( A ( picture . ) )",
            "sentence2": pair.sentence.text,
        }
        lines.append(json.dumps(entry))
    path.write_text("\n".join(lines) + "\n")
    return path


def e_snli_ve(path: Path, chosen: Sequence[HeldOut]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "pairID", "Flickr30kID", "hypothesis", "gold_label", "explanation"])
        for position, pair in enumerate(chosen):
            image = f"{name(position)}.jpg"
            label = PUBLISHED[pair.sentence.answer]
            row = [position, f"{image}#0r{position % 4}", image, pair.sentence.text, label, "A, b."]
            writer.writerow(row)
    return path


def ofa_tsv(path: Path, pictures: Path, chosen: Sequence[HeldOut], *, caption: bool = True) -> Path:
    with path.open("wb") as file:
        for position, pair in enumerate(chosen):
            encoded = base64.b64encode((pictures / f"{name(position)}.jpg").read_bytes())
            columns = [f"{name(position)}.jpg#0r{position % 4}".encode(), name(position).encode(), encoded]
            columns.append(pair.sentence.text.encode())
            if caption:
                columns.append(PREMISE.encode())
            columns.append(PUBLISHED[pair.sentence.answer].encode())
            file.write(b"\t".join(columns) + b"\n")
    return path


def own_csv(path: Path, chosen: Sequence[HeldOut], folder: str = "pictures") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "label", "category"])
        for position, pair in enumerate(chosen):
            label = pair.sentence.answer.capitalize()
            image = f"{folder}/{name(position)}.jpg"
            writer.writerow([image, pair.sentence.text, label, pair.sentence.category])
    return path


def captions(chosen: Sequence[HeldOut]) -> list[tuple[str, str, str]]:
    """Return picture, right and wrong caption: sentences about one picture with the answers yes and no."""
    found = []
    for start in range(0, len(chosen), 4):
        by_answer = {pair.sentence.answer: pair.sentence.text for pair in chosen[start : start + 4]}
        if {"yes", "no"} <= by_answer.keys():
            found.append((f"{name(start)}.jpg", by_answer["yes"], by_answer["no"]))
    return found


def sugar_crepe(path: Path, chosen: Sequence[HeldOut]) -> Path:
    document = {
        str(number): {"filename": image, "caption": right, "negative_caption": wrong}
        for number, (image, right, wrong) in enumerate(captions(chosen))
    }
    path.write_text(json.dumps(document, indent=4))
    return path


def valse(path: Path, chosen: Sequence[HeldOut]) -> Path:
    document = {
        f"existence_{number}": {
            "dataset": "shapes",
            "image_file": image,
            "linguistic_phenomena": "existence",
            "caption": right,
            "foil": wrong,
            "mturk": {"foil": 0, "caption": 3, "other": 0},
        }
        for number, (image, right, wrong) in enumerate(captions(chosen))
    }
    path.write_text(json.dumps(document))
    return path


def foil(path: Path, chosen: Sequence[HeldOut]) -> Path:
    images, annotations = [], []
    for number, (image, right, wrong) in enumerate(captions(chosen)):
        images.append({"id": number, "file_name": image})
        shared = {"image_id": number, "id": 500 + number}
        annotations.append({**shared, "foil": False, "foil_id": 0, "caption": right, "foil_word": "ORIG"})
        annotations.append({**shared, "foil": True, "foil_id": 900 + number, "caption": wrong})
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations, "licenses": []}))
    return path
