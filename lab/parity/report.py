"""Tables of the comparison, for the terminal and for docs/parity.md."""

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

DOCUMENT = ROOT / "docs" / "parity.md"
RECORD = ROOT / "docs" / "parity.json"
HEAD = ("folder", "pairs", "max abs Δp", "in a batch", "labels", "tokens", "parameters", "p from … to", "")


def row(result: FolderResult) -> tuple[str, ...]:
    """Return one row of the table."""
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
    """Record a folder in docs/parity.json and write docs/parity.md from it.

    Folders that were not compared this time keep their rows; each row says where it was measured.
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
    """Replace the note below the table."""
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
    """Return docs/parity.md."""
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
folders, pictures and texts. Required in fp32 on CPU: every probability of every pair within {TOLERANCE:.0e},
the same label, the same token ids, the same parameters by name and shape.

TABLE

ModelScope computes all three probabilities (`_traverse_inference`) and returns one; the comparison records
all three. "In a batch" judges all pairs of a folder in one call. Measured:

NOTES

The folders have random weights, drawn from PCG64 by folder and key (`lab/parity/weights.py`), so no weights
are stored. `lab/parity/folders.py` lists what each folder varies; `lab/parity/pairs.py` holds the 20 pairs:
modes L, P, RGBA, CMYK, LA and 1, an animated GIF, EXIF orientation, pictures of 1×1, 3×400 and 500×7 pixels;
texts that are long, almost empty, Chinese, emoji, invisible, with quotes, hyphens and `<person>`, with and
without premise. `distilled` and `large` have the published models' shapes; `demo` is the bundled model, with
the examples of its card.

## Intended differences

- Special and added tokens in a text (`</s>`, `<mask>`, `<code_5>`) are plain text here and control tokens in
  ModelScope.
- A premise is refused for a model whose configured prompt has one slot; ModelScope drops the hypothesis.
- Transparency is composited on white, as in a browser; ModelScope drops the alpha channel. The comparison
  uses ModelScope's way (`open_picture(path, transparency="dropped")`). Compositing happens at full size,
  before resizing; decoding in strips changes no pixel.
- Of an animated PNG the first frame is read, where ModelScope reads the default image; uncovered pixels of a
  GIF's first frame are white; a damaged or oversized comment is ignored.
- Only the EXIF orientation is applied, as in browsers; ModelScope also applies XMP and ImageMagick's profile.
- Pictures with more than 8 bits per channel are scaled, and refused beyond 16; ModelScope clips them.
- Models with `prompt_type: none`: ModelScope's collation fails on the empty `prefix_token` of its own
  preprocessor. The comparison removes that unused field and changes nothing else.
- The Pillow version matters: 13.0 resizes some pictures differently from 12.3, which moved probabilities of
  random-weight models by up to 6e-3. Both environments pin the same version.

## Repeat the comparison

    make parity                        # all folders above
    make parity ARGS=--quick           # the small ones and the demo model
    make parity MODEL=<hub id|folder>  # real weights, the same 20 pairs
    make parity ARGS=--write-goldens   # also rewrites tests/parity/goldens and this file
    make parity ARGS='--folder large --write-goldens'  # one row

`make test` checks the goldens of the small folders without ModelScope.
"""


def machine() -> str:
    """Return processor, cores and system, without a host name."""
    model = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
