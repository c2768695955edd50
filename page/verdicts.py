"""The HTML of an answer: a verdict, no verdict, or an input error.

All foreign text is escaped. A verdict is a filled card with a large word and bars, no verdict a dashed card.
"""

from __future__ import annotations

import math
from html import escape

from page.words import Language, has, say, say_html
from service.contract.errors import InputError
from service.contract.request import LABELS, Verdict

MARKS = {
    "Yes": '<path d="M5 12.5l4.5 4.5L19 7.5"/>',
    "No": '<path d="M6.5 6.5l11 11M17.5 6.5l-11 11"/>',
    "Maybe": '<path d="M8.5 9a3.5 3.5 0 1 1 5 3.2c-1 .5-1.5 1.1-1.5 2.3M12 18.2v.1"/>',
    "none": '<path d="M12 6.5v7M12 17.4v.1"/>',
}


def verdict(answer: Verdict, language: Language, *, limit: float, failed: bool = False) -> str:
    """Return the answer's HTML. ``limit``: the time limit in seconds; ``failed``: the model did not load."""
    if answer.reason is None and answer.scores is not None:
        return _decided(answer, language)
    return _undecided(answer, language, limit=limit, failed=failed)


def input_error(error: InputError, language: Language) -> str:
    """Return the HTML of an input error, which says what to change."""
    return (
        '<section class="answer answer-input" role="alert">'
        f"{_mark('none')}<div><h3>{say_html(language, 'input.title')}</h3>"
        f"<p>{escape(input_error_text(error, language))}</p></div></section>"
    )


def input_error_text(error: InputError, language: Language) -> str:
    """Return an input error as plain text, for programs."""
    key = f"input.{error.code}{'.heic' if error.facts.get('missing_heic') else ''}"
    if not has(key):
        return f"{error.message} {error.remedy}".strip()
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


def _decided(answer: Verdict, language: Language) -> str:
    scores = answer.scores or {}
    bars = "".join(_bar(label, scores[label], label == answer.label, language) for label in LABELS)
    meta = [say(language, "took", seconds=seconds(answer.duration))]
    if answer.device:
        meta.append(say(language, "on_device", device=device_name(answer.device)))
    return (
        f'<section class="answer answer-{escape(answer.label.lower())}" role="status">'
        f'<div class="answer-head">{_mark(answer.label)}<div>'
        f'<h3 class="answer-word">{say_html(language, f"label.{answer.label}")}</h3>'
        f"<p>{say_html(language, f'meaning.{answer.label}')}</p></div></div>"
        f'<ul class="bars" aria-label="{say_html(language, "probabilities")}">{bars}</ul>'
        f'<p class="answer-meta">{escape(" · ".join(meta))}</p></section>'
    )


def _bar(label: str, share: float, chosen: bool, language: Language) -> str:
    return (
        f'<li class="bar bar-{label.lower()}{" bar-chosen" if chosen else ""}">'
        f'<span class="bar-name">{say_html(language, f"label.{label}")}</span>'
        f'<span class="bar-track"><span class="bar-fill" style="width:{share * 100:.2f}%"></span></span>'
        f'<span class="bar-value">{escape(percent(share))}</span></li>'
    )


def _undecided(answer: Verdict, language: Language, *, limit: float, failed: bool) -> str:
    reason = "failed" if failed and answer.reason == "loading" else answer.reason or "error"
    if not has(f"none.{reason}"):
        reason = "error"
    why = say(language, f"none.{reason}", limit=f"{limit:g}")
    if reason == "busy" and answer.retry_after is None:
        what = say(language, "none.busy.later")
    else:
        what = say(language, f"none.{reason}.do", seconds=math.ceil(answer.retry_after or 0))
    return (
        f'<section class="answer answer-none" role="alert" data-reason="{escape(answer.reason or "error")}">'
        f'<div class="answer-head">{_mark("none")}<div>'
        f'<h3 class="answer-word">{say_html(language, "none.title")}</h3>'
        f"<p>{say_html(language, 'none.lead')}</p></div></div>"
        f"<p><strong>{escape(why)}</strong> {escape(what)}</p></section>"
    )


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


def _mark(name: str) -> str:
    return f'<svg class="answer-mark" viewBox="0 0 24 24" aria-hidden="true">{MARKS[name]}</svg>'
