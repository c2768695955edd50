"""The fixed HTML of the batch tab. Its script gets the same texts as JSON in ``data-words``."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Final

from page.words import BATCH, DYNAMIC, Language
from service.contract.request import LABELS

_ROOM: Final = Path(__file__).resolve().parent
_SOURCES: Final = tuple((_ROOM / name).read_text(encoding="utf-8") for name in ("results.js", "tab.js"))
#: One block in one function body: Gradio passes its own names as parameters, and takes no modules.
SCRIPT: Final = "\n".join(("{", *_SOURCES, "}"))
STYLES: Final = _ROOM / "tab.css"
EXAMPLE_PATH: Final = "batch/example.zip"

FORMS: Final = ".csv,.tsv,.jsonl,.xlsx,.zip"
COLUMNS: Final = ("image", "text", "premise")
#: Columns of the table by the key that sorts them; "" cannot be sorted.
HEADS: Final = (
    ("line", "line"),
    ("picture", ""),
    ("sentence", ""),
    ("verdict", "label"),
    ("score", "score"),
    ("doubt", "doubt"),
    ("probabilities", ""),
)
_ICON: Final = (
    '<svg viewBox="0 0 48 48" aria-hidden="true"><path d="M24 31V9m-8 8 8-8 8 8"/>'
    '<path d="M8 30v6a4 4 0 0 0 4 4h24a4 4 0 0 0 4-4v-6"/></svg>'
)


def frame(language: Language, *, example: bool) -> str:
    """Return the tab's HTML. ``example``: whether there is an example to download."""
    words = {**BATCH[language], **{label: DYNAMIC[language][f"label.{label}"] for label in LABELS}}
    word = {key: escape(text) for key, text in words.items()}
    return (
        f'<div id="batch" data-words="{escape(json.dumps(words, ensure_ascii=False))}">'
        '<section class="batch-off" hidden>'
        f'<h2>{word["off"]}</h2><p data-text="off"></p></section>'
        f"{_new(word, example)}"
        f'<p class="batch-hidden" role="status" data-text="news"></p>'
        f'<section class="batch-mine" hidden><h2>{word["mine"]}</h2>'
        f'<p class="batch-note">{word["mine_text"]}</p>'
        f'<p class="batch-note batch-warning" data-part="no-storage" hidden>{word["no_storage"]}</p>'
        '<ul data-part="mine"></ul></section>'
        f"{_one(word)}</div>"
    )


def _new(word: dict[str, str], example: bool) -> str:
    """Return the form of a new batch."""
    columns = "".join(
        f'<label>{word[f"columns_{name}"]}<input name="{name}_column" list="batch-columns" '
        f'autocomplete="off" spellcheck="false" placeholder="{name}"></label>'
        for name in COLUMNS
    )
    link = f'<a href="{EXAMPLE_PATH}" download>{word["example"]}</a>' if example else ""
    return (
        f'<section class="batch-new"><h2 class="batch-hidden">{word["title"]}</h2><div class="batch-ways">'
        f'<label class="batch-drop"><input type="file" class="batch-hidden" accept="{FORMS}">{_ICON}'
        f'<strong>{word["drop"]}</strong><span class="batch-choose">{word["choose"]}</span>'
        f"<small>{word['forms']}</small></label>"
        f'<div class="batch-how"><h3>{word["how"]}</h3><p>{word["how_rows"]}</p>'
        f"<p>{word['how_zip']}</p>{link}"
        f'<details><summary>{word["columns"]}</summary><div class="batch-columns">{columns}</div>'
        '<datalist id="batch-columns"></datalist></details></div></div>'
        '<div class="batch-upload" hidden><span data-text="upload"></span>'
        f'<progress max="1" aria-label="{word["progress"]}"></progress>'
        f'<button type="button" data-do="stop">{word["stop"]}</button></div>'
        f'<div class="batch-refused" role="alert" hidden><strong>{word["refused"]}</strong>'
        '<p data-text="refused"></p><p data-text="columns-found"></p>'
        f'<button type="button" data-do="again">{word["again"]}</button></div></section>'
    )


def _one(word: dict[str, str]) -> str:
    """Return the part of the selected batch."""
    return (
        '<section class="batch-one" hidden><div class="batch-head"><h2 tabindex="-1" data-text="name"></h2>'
        '<span class="batch-state" data-text="state"></span>'
        f'<div class="batch-buttons"><a download data-format="csv">{word["csv"]}</a>'
        f'<a download data-format="jsonl">{word["jsonl"]}</a>'
        f'<button type="button" data-do="cancel">{word["cancel"]}</button>'
        f'<button type="button" data-do="remove">{word["remove"]}</button></div></div>'
        f'<progress max="1" value="0" aria-label="{word["progress"]}"></progress>'
        '<p class="batch-facts" data-text="facts"></p>'
        '<p class="batch-warning" role="status" data-text="trouble"></p>'
        f'<div data-part="results">{_filters(word)}'
        f'<div class="batch-table"><table role="table" data-part="table"><thead role="rowgroup">'
        f'<tr role="row">{"".join(_head(word, *head) for head in HEADS)}</tr></thead>'
        '<tbody role="rowgroup"></tbody></table></div><p class="batch-note" data-text="empty"></p>'
        '<div class="batch-pages"><button type="button" data-do="previous">'
        f'{word["previous"]}</button><span role="status" data-text="range"></span>'
        f'<button type="button" data-do="next">{word["next"]}</button></div></div></section>'
    )


def _filters(word: dict[str, str]) -> str:
    kinds = {
        "all": word["all"],
        **{label: word[label] for label in LABELS},
        "errors": word["errors"],
        "review": word["review"],
        "reject": word["reject"],
    }
    shown = "".join(
        f'<label data-kind="{kind}"><input type="radio" name="batch-kind" value="{kind}"'
        f"{' checked' if kind == 'all' else ''}><span>{name} <b></b></span></label>"
        for kind, name in kinds.items()
    )
    return (
        f'<form class="batch-filters"><fieldset><legend class="batch-hidden">{word["filter"]}</legend>{shown}'
        f'</fieldset><label class="batch-doubt" title="{word["doubt_info"]}"><span data-text="doubt"></span>'
        '<input type="range" name="doubt" min="0" max="100" value="0" step="1"></label>'
        f'<label class="batch-search"><span class="batch-hidden">{word["search"]}</span>'
        f'<input type="search" name="search" autocomplete="off" placeholder="{word["search_hint"]}"></label>'
        "</form>"
    )


def _head(word: dict[str, str], name: str, key: str) -> str:
    if not key:
        return f'<th role="columnheader" scope="col" class="batch-{name}">{word[name]}</th>'
    return (
        f'<th role="columnheader" scope="col" class="batch-{name}" aria-sort="none" data-sort="{key}">'
        f'<button type="button">{word[name]}</button></th>'
    )
