"""The comparison in words: a table for the terminal and for docs/parity.md."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lab import ROOT
from lab.parity.compare import TOLERANCE, FolderResult
from lab.parity.folders import SPECS

DOCUMENT = ROOT / "docs" / "lab.parity.md"
RECORD = ROOT / "docs" / "lab.parity.json"
HEAD = ("folder", "pairs", "max abs Δp", "in a batch", "labels", "tokens", "parameters", "p from … to", "")


def row(result: FolderResult) -> tuple[str, ...]:
    """One line of the table."""
    total = len(result.results)
    low, high = result.spread
    return (
        result.name,
        str(total),
        f"{max(pair.delta for pair in result.results):.1e}",
        f"{max(pair.batched_delta for pair in result.results):.1e}",
        f"{result.labels_agreeing}/{total}",
        f"{result.tokens_agreeing}/{total}",
        "same" if not result.keys_differing else f"{len(result.keys_differing)} differ",
        f"{low:.3f} … {high:.3f}",
        "ok" if result.passed else "FAILED",
    )


def record(result: FolderResult) -> None:
    """Enter a folder in docs/parity.json and write docs/parity.md from all that it holds.

    Folders that were not compared this time keep their rows: each says where it was measured.
    """
    kept = _kept()
    kept["rows"][result.name] = {
        "row": row(result),
        "measured": f"{datetime.now(UTC):%Y-%m-%d}, {machine()}",
        "modelscope side": dict(result.versions),
        "our side": {name: version(name) for name in ("torch", "tokenizers", "pillow", "numpy")},
    }
    _write(kept)


def record_note(note: str) -> None:
    """Enter what was found out besides, in place of what was noted before."""
    _write({**_kept(), "notes": [note]})


def _kept() -> dict[str, Any]:
    if not RECORD.is_file():
        return {"rows": {}, "notes": []}
    kept: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return kept


def _write(kept: Mapping[str, Any]) -> None:
    RECORD.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    DOCUMENT.write_text(document(kept), encoding="utf-8")


def document(kept: Mapping[str, Any]) -> str:
    """The whole of docs/parity.md."""
    order = [*SPECS, *(name for name in kept["rows"] if name not in SPECS)]
    rows = {name: kept["rows"][name] for name in order if name in kept["rows"]}
    table = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    table += ["| " + " | ".join(entry["row"]) + " |" for entry in rows.values()]
    conditions: dict[str, list[str]] = {}
    for name, entry in rows.items():
        sides = "; ".join(
            f"{side}: " + ", ".join(f"{package} {number}" for package, number in entry[side].items())
            for side in ("modelscope side", "our side")
        )
        conditions.setdefault(f"{entry['measured']}; {sides}.", []).append(name)
    measured = [
        f"- {text}" + ("" if len(conditions) == 1 else f" ({', '.join(names)})")
        for text, names in conditions.items()
    ]
    noted = "\n".join([*measured, *(f"- {note}" for note in kept["notes"])])
    return TEXT.replace("TABLE", "\n".join(table)).replace("NOTES", noted)


TEXT = f"""# Same answers as ModelScope's pipeline

Written by `make parity ARGS=--write-goldens`, which runs ModelScope's own pipeline and `ofa/` on the same
folders, pictures and texts. Promised: fp32 on CPU, every probability of every pair within {TOLERANCE:.0e},
the same label, the same token ids, the same parameters by name and shape.

TABLE

All three probabilities of ModelScope's side are its own: `_traverse_inference` computes them all and returns
one. "In a batch" judges all pairs of a folder in one call. Measured:

NOTES

The folders have random weights, drawn from PCG64 by folder and key (`lab/parity/weights.py`), so nothing
is shipped. `lab/parity/folders.py` says what each varies; `lab/parity/pairs.py` holds the 20 pairs: modes L,
P, RGBA, CMYK, LA and 1, an animated GIF, a file turned by EXIF, pictures of 1×1, 3×400 and 500×7 pixels;
texts that are long, almost empty, Chinese, emoji, invisible, with quotes, hyphens and `<person>`, with
and without premise. `distilled` and `large` have the published models' shapes; `demo` is
the bundled model, with its card's examples as well.

## Differences that are meant

- A text that spells a special or added token (`</s>`, `<mask>`, `<code_5>`) is text here and control
  in ModelScope.
- A premise for a model whose configured prompt has one slot is refused; ModelScope would drop the
  hypothesis.
- Transparency is laid on white, as a browser shows it; ModelScope drops it, so that the colours under it
  show. The comparison asks for ModelScope's way (`open_picture(path, transparency="dropped")`). A picture is
  laid on white at its full size, before it is resized: the largest difference that reading in strips makes
  is 0, and pictures without transparency have the same pixels either way.
- The first frame of an animated PNG is read where ModelScope reads the default image, what a GIF's first
  frame leaves open is white, and a damaged or oversized comment does not stop a picture.
- Pictures are turned by their EXIF orientation alone; ModelScope also goes by XMP and ImageMagick's profile,
  which browsers ignore.
- Pictures of more than 8 bits per channel are scaled, and refused beyond 16; ModelScope clips them.
- Models with `prompt_type: none`: ModelScope's collation fails on the empty `prefix_token` that its own
  preprocessor makes. The comparison removes that unused field, and changes nothing else.
- Pillow is part of the answer: 13.0 resizes some pictures to other pixels than 12.3, which moved
  probabilities of random-weight models by up to 6e-3. Both environments pin the same version.

## Doing it again

    make parity                        # all folders above
    make parity ARGS=--quick           # the small ones and the demo model
    make parity MODEL=<hub id|folder>  # real weights, the same 20 pairs
    make parity ARGS=--write-goldens   # also rewrites tests/parity/goldens and this file
    make parity ARGS='--folder large --write-goldens'  # measures one row again

`make test` checks the goldens of the small folders without ModelScope.
"""


def machine() -> str:
    """Processor, cores and system, without any name."""
    model = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
