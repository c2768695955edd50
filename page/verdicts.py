"""An answer as data for the page's rows: a verdict, no verdict, or an input error. Texts are plain."""

from __future__ import annotations

import math
from typing import Any

from page.words import Language, has, say
from service.contract.errors import InputError
from service.contract.request import LABELS, Verdict


def verdict(answer: Verdict, language: Language, *, limit: float, failed: bool = False) -> dict[str, Any]:
    """Return the answer. ``limit``: the time limit in seconds; ``failed``: the model did not load."""
    if answer.reason is None and answer.scores is not None:
        return _decided(answer, language)
    return _undecided(answer, language, limit=limit, failed=failed)


def input_error(error: InputError, language: Language) -> dict[str, Any]:
    """Return an input error, which says what to change."""
    return {"state": "input", "code": str(error.code), "text": input_error_text(error, language)}


def input_error_text(error: InputError, language: Language) -> str:
    """Return an input error as plain text, for programs."""
    key = f"input.{error.code}{'.heic' if error.facts.get('missing_heic') else ''}"
    if not has(key):
        return error.sentence
    return say(language, key, **_allowed(error, language))


def percent(share: float) -> str:
    """Format a probability; never 100 % or 0 % for an uncertain one."""
    if share < 0.0005:
        return "<0.1%"
    tenths = share * 1000
    tenths = math.floor(tenths) if share > 0.5 else math.ceil(tenths)
    return f"{tenths / 10:.1f}%"


def seconds(duration: float) -> str:
    """Format a duration in seconds with two significant digits: 0.42, 3.2, 15."""
    return f"{duration:.2f}" if duration < 1 else f"{duration:.1f}" if duration < 10 else f"{duration:.0f}"


def device_name(device: str) -> str:
    """``cpu`` → ``CPU``, ``cuda:0`` → ``CUDA:0``."""
    return device.upper()


def _decided(answer: Verdict, language: Language) -> dict[str, Any]:
    scores = answer.scores or {}
    meta = [say(language, "took", seconds=seconds(answer.duration))]
    if answer.device:
        meta.append(say(language, "on_device", device=device_name(answer.device)))
    if answer.decision is not None:
        meta.append(say(language, f"decision.{answer.decision}"))
    return {
        "state": "verdict",
        "verdict": answer.as_dict(),
        "shares": {label: percent(scores[label]) for label in LABELS},
        "meta": " · ".join(meta),
    }


def _undecided(answer: Verdict, language: Language, *, limit: float, failed: bool) -> dict[str, Any]:
    reason = "failed" if failed and answer.reason == "loading" else answer.reason or "error"
    if not has(f"none.{reason}"):
        reason = "error"
    if reason == "busy" and answer.retry_after is None:
        remedy = say(language, "none.busy.later")
    else:
        remedy = say(language, f"none.{reason}.do", seconds=math.ceil(answer.retry_after or 0))
    text = say(language, f"none.{reason}", limit=f"{limit:g}")
    return {"state": "none", "verdict": answer.as_dict(), "text": text, "remedy": remedy}


def _allowed(error: InputError, language: Language) -> dict[str, str]:
    """Return the limit in an error's facts as a sentence per unit, each empty without a limit."""
    # Chinese counts in 万 (ten thousand), English in millions.
    divisors = {"pixels": 10_000 if language == "zh" else 1_000_000, "bytes": 1_048_576, "chars": 1}
    limit = error.facts.get("limit")
    parts = dict.fromkeys((f"allowed_{unit}" for unit in divisors), "")
    if isinstance(limit, int | float):
        for unit, divisor in divisors.items():
            value = limit / divisor
            shown = f"{value:.4g}" if value < 1000 else f"{value:.0f}"  # .4g gives 1e+05 for 100 000
            parts[f"allowed_{unit}"] = say(language, f"allowed_{unit}", limit=shown)
    return parts
