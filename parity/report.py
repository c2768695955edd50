"""The comparison in words: a table for the terminal and for docs/parity.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from parity.compare import TOLERANCE, FolderResult

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


def markdown_table(results: Sequence[FolderResult]) -> str:
    """The table in Markdown."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(row(result)) + " |" for result in results]
    return "\n".join(lines)


def document(results: Sequence[FolderResult], command: str, notes: Sequence[str]) -> str:
    """The whole of docs/parity.md."""
    theirs = ", ".join(f"{name} {number}" for name, number in results[0].versions.items())
    ours = ", ".join(f"{name} {version(name)}" for name in ("torch", "tokenizers", "pillow", "numpy"))
    return f"""# Same answers as ModelScope's pipeline

Written by `{command}`, which runs ModelScope's own pipeline and `ofa/` on the same folders,
pictures and texts. Promised: fp32 on CPU, every probability of every pair within {TOLERANCE:.0e},
the same label, the same token ids, the same parameters by name and shape.

{markdown_table(results)}

- ModelScope's side: {theirs}.
  All three probabilities are its own: `_traverse_inference` computes them all and returns one.
- Our side: {ours}. "In a batch" judges all pairs of a folder in one call.
- Machine: {machine()}.
{"".join(f"- {note}" + chr(10) for note in notes)}
The folders have random weights, drawn from PCG64 by folder and key (`parity/weights.py`), so nothing
is shipped. `parity/folders.py` says what each varies; `parity/pairs.py` holds the 20 pairs: modes L, P,
RGBA, CMYK, LA and 1, an animated GIF, a file turned by EXIF, pictures of 1×1, 3×400 and 500×7 pixels;
texts that are long, almost empty, Chinese, emoji, invisible, with quotes, hyphens and `<person>`, with
and without premise. The models of the table's last rows have the published shapes; `demo` is the
bundled one.

## Differences that are meant

- A text that spells a special or added token (`</s>`, `<mask>`, `<code_5>`) is text here and control
  in ModelScope.
- A premise for a model whose configured prompt has one slot is refused; ModelScope would drop the
  hypothesis.
- Pictures of more than 8 bits per channel are scaled; ModelScope clips them.
- Models with `prompt_type: none`: ModelScope's collation fails on the empty `prefix_token` that its own
  preprocessor makes. The comparison removes that unused field, and changes nothing else.
- Pillow is part of the answer: 13.0 resizes some pictures to other pixels than 12.3, which moved
  probabilities of random-weight models by up to 6e-3. Both environments pin the same version.

## Doing it again

    make parity                        # all folders above
    make parity ARGS=--quick           # the small ones and the demo model
    make parity MODEL=<hub id|folder>  # real weights, the same 20 pairs
    make parity ARGS=--write-goldens   # rewrites tests/parity/goldens and this file

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
