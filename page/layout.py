"""The page's components and events."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from html import escape
from pathlib import Path
from typing import Any, Final

import gradio as gr

from page.ask.frame import SCRIPT, Access, frame
from page.batch.frame import SCRIPT as BATCH
from page.batch.frame import frame as batch_frame
from page.card import Card, Example
from page.handlers import Application, Handlers
from page.picture import Picture
from page.uploads import Uploads
from page.words import DEFAULT, DYNAMIC, LANGUAGES, STATIC, Language, say_html
from service.callers import Callers
from service.http.identity import Identity
from service.http.log_limit import LogLimit

log = logging.getLogger(__name__)
_invalid_calls = LogLimit(60.0)

ASSETS: Final = Path(__file__).resolve().parent

# The tags that browsers send for each language; Gradio matches whole tags only.
TAGS: Final[dict[Language, tuple[str, ...]]] = {
    "en": ("en",),
    "zh": ("zh", "zh-CN", "zh-TW", "zh-HK", "zh-SG"),
}

OPERATIONS: Final = (ASSETS / "operations" / "tab.js").read_text(encoding="utf-8")

INVALID_CALL: Final = (
    'Invalid call. Send "data": [picture, text, premise or null], where picture is '
    '{"path": the path that /gradio_api/upload returned, "meta": {"_type": "gradio.FileData"}}.'
)

PICK_EXAMPLE: Final = """
element.addEventListener('click', (event) => {
  const card = event.target.closest('[data-example]');
  if (card) trigger('select', {index: Number(card.dataset.example)});
});
"""

# The calls of a row: page/ask/ask.js. Its answer goes to a hidden component as data.
ASK: Final = "(...asked) => window.ofa.ask(...asked)"
NEXT: Final = "() => window.ofa.next()"
ENDED: Final = "(answer) => window.ofa.ended(answer)"
CHOSEN: Final = "() => window.ofa.picture()"
CORRECTED: Final = "() => window.ofa.corrected()"
CLEAR: Final = "() => { window.ofa.corrected(); return [null, '', '']; }"
UPDATE: Final = "watch('value', () => window.ofa.update(props.value));"


class Page(gr.Blocks):
    """Blocks that answer an invalid call with an error message. Gradio's answer is empty, and it prints the
    input.

    A picture with an invalid path is passed to the handler, which answers in the user's language.
    """

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        invalid = {
            index: picture
            for index, (block, value) in enumerate(zip(block_fn.inputs, inputs, strict=False))
            if isinstance(block, Picture) and (picture := block.invalid(value))
        }
        accepted = [None if index in invalid else value for index, value in enumerate(inputs)]
        try:
            values = await super().preprocess_data(block_fn, accepted, *args, **kwargs)
            return [invalid.get(index, value) for index, value in enumerate(values)]
        except gr.Error:
            raise
        except Exception as error:
            if (more := _invalid_calls.admit()) is not None:
                log.warning("CALL_NOT_UNDERSTOOD | ERROR=%s | MORE=%d", type(error).__name__, more)
            raise gr.Error(INVALID_CALL, title="bad_call", print_exception=False) from None


def build(
    application: Application,
    uploads: Uploads,
    *,
    intake: Executor,
    limit: float,
    card: Card,
    operations: bool = False,
    batches: bool = True,
    login: bool = False,
    keys: bool = False,
    callers: Callers | None = None,
    identity: Identity | None = None,
) -> gr.Blocks:
    """Build the page. ``intake`` runs the calls to ``application``; ``limit`` is its time limit in seconds;
    ``operations`` and ``batches`` say whether there are these tabs, ``login`` whether the page has a login,
    ``keys`` whether the API needs a key."""
    handlers = Handlers(
        application,
        intake=intake,
        limit=limit,
        examples=card.examples,
        callers=callers,
        identity=identity,
        in_use=uploads.in_use,
    )
    access: Access = "key" if keys else "login" if login else "open"
    say = gr.I18n(**translations(card, access))
    with Page(
        title=STATIC[DEFAULT]["title"],  # page.js replaces it with the translated one
        analytics_enabled=False,
        fill_width=True,
    ) as page:
        gr.HTML(say("header_html"), elem_id="masthead")
        gr.HTML('<div id="state" aria-live="polite"></div>', elem_id="state-host")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(say("tab_ask"), elem_id="ask"):
                _judge_tab(handlers, uploads, say, card)
            if batches:
                with gr.Tab(say("tab_batch"), elem_id="batches"):
                    gr.HTML(say("batch_html"), elem_id="batch-host", js_on_load=BATCH)
            if operations:
                with gr.Tab(say("tab_ops"), elem_id="operations"):
                    gr.HTML('<div id="ops"></div>', elem_id="ops-host", js_on_load=OPERATIONS)
        gr.HTML(say("footer_html"), elem_id="footer")
        if login:
            gr.HTML(say("logout_html"), elem_id="logout")
    page.i18n_instance = say
    return page


def _judge_tab(handlers: Handlers, uploads: Uploads, say: gr.I18n, card: Card) -> None:
    """Add the inputs, the rows and the examples."""
    with gr.Row(elem_id="main", equal_height=False):
        with gr.Column(scale=5, min_width=320):
            inputs = _inputs(uploads, say, card)
            with gr.Row(elem_id="buttons"):
                clear = gr.Button(say("clear"), elem_id="clear", scale=1, min_width=90)
                judge = gr.Button(say("judge"), variant="primary", elem_id="judge", scale=3, min_width=150)
        with gr.Column(scale=4, min_width=320):
            rows = gr.HTML(
                say("rows_html"), elem_id="answer", container=False, min_height=180, js_on_load=SCRIPT
            )
    gr.HTML(say("knows_html"), elem_id="knows")
    examples = gr.HTML(
        say("examples_html"),
        elem_id="examples",
        js_on_load=PICK_EXAMPLE,
        visible=bool(card.examples),
    )
    _wire(handlers, inputs, rows, judge, clear, examples)


def _inputs(uploads: Uploads, say: gr.I18n, card: Card) -> list[Any]:
    """Add picture, sentence and premise. The premise exists, for programs, even if the model takes none."""
    picture = Picture(
        type="filepath",
        label=say("picture"),
        placeholder=say("picture_hint"),  # type: ignore[arg-type]  # translated like any other property
        sources=["upload", "clipboard", "webcam"],
        webcam_options=gr.WebcamOptions(mirror=False),
        buttons=["fullscreen"],
        height=340,
        elem_id="picture",
    )
    picture.uploads = uploads
    picture.examples = frozenset(example.image for example in card.examples)
    sentence = gr.Textbox(
        label=say("hypothesis"),
        info=say("hypothesis_info"),
        placeholder=say("hypothesis_hint"),
        lines=1,
        max_lines=3,
        elem_id="hypothesis",
    )
    with gr.Accordion(say("premise_title"), open=False, elem_id="premise-box", visible=card.takes_premise):
        premise = gr.Textbox(
            label=say("premise"),
            info=say("premise_info"),
            placeholder=say("premise_hint"),
            lines=1,
            max_lines=3,
            elem_id="premise",
        )
    return [picture, sentence, premise]


def _wire(
    handlers: Handlers,
    inputs: list[Any],
    rows: gr.HTML,
    judge: gr.Button,
    clear: gr.Button,
    examples: gr.HTML,
) -> None:
    # concurrency_limit=None everywhere: requests wait only in the service's queue.
    private: dict[str, Any] = {
        "api_visibility": "private",
        "concurrency_limit": None,
        "show_progress": "hidden",
    }
    gr.on([judge.click, inputs[1].submit, inputs[2].submit], None, inputs, js=ASK, **private)
    examples.select(handlers.fill, None, inputs, **private).success(None, inputs, js=ASK, **private)
    row = gr.Textbox(visible=False)
    answer = gr.HTML(html_template="", visible="hidden", js_on_load=UPDATE)
    rows.submit(handlers.for_page, [*inputs, row], answer, js=NEXT, trigger_mode="multiple", **private).then(
        None, answer, js=ENDED, **private
    )
    rows.upload(None, None, inputs[0], js=CHOSEN, **private)
    inputs[0].input(None, js=CORRECTED, **private)
    clear.click(None, None, inputs, js=CLEAR, **private)

    program = gr.Button(visible=False)
    result = gr.JSON(label="answer", visible=False)
    program.click(
        handlers.for_programs,
        inputs,
        result,
        api_name="judge",
        concurrency_limit=None,
        show_progress="hidden",
    )


def translations(card: Card, access: Access = "open") -> dict[str, dict[str, str]]:
    """Return all static texts by language tag, plain and as HTML."""
    found: dict[str, dict[str, str]] = {}
    for language in LANGUAGES:
        texts = {**STATIC[language], **_html(language, card, access)}
        found |= dict.fromkeys(TAGS[language], texts)
    return found


def _html(language: Language, card: Card, access: Access) -> dict[str, str]:
    word = {key: escape(text) for key, text in STATIC[language].items()}
    knows = escape(card.knows.get(language, "")) or word["knows_unknown"]
    return {
        "header_html": f"<header>{MARK}<div><h1>{word['title']}</h1><p>{word['lead']}</p></div></header>",
        "rows_html": frame(language, access),
        "knows_html": f"<section><h2>{word['knows']}</h2><p>{knows}</p></section>",
        "examples_html": f"<section><h2>{word['examples']}</h2><p>{word['examples_text']}</p>"
        f'<div class="cards">{_cards(card.examples, language)}</div></section>',
        "batch_html": batch_frame(language, example=bool(card.examples)),
        "footer_html": f"<footer>{word['privacy']}</footer>",
        "logout_html": '<button type="button" data-logout>'
        f"{say_html(language, 'ops.logout.button')}</button>",
    }


def _cards(examples: Sequence[Example], language: Language) -> str:
    return "".join(
        f'<button type="button" class="card" data-example="{index}">'
        f'<img src="example/{index}" alt="" loading="lazy"><span><span class="card-sentence">'
        f"{escape(example.hypothesis)}</span>{_reason(example, language)}</span></button>"
        for index, example in enumerate(examples)
    )


def _reason(example: Example, language: Language) -> str:
    """Return the correct answer and its explanation."""
    if example.label is None:
        return ""
    label = escape(DYNAMIC[language][f"label.{example.label}"])
    return f"<small><b>{label}</b> · {escape(example.why[language])}</small>"


MARK: Final = (
    '<svg class="brand" viewBox="0 0 48 48" aria-hidden="true">'
    '<rect x="3" y="7" width="34" height="34" rx="9"/><circle cx="15" cy="20" r="4.5"/>'
    '<path d="M8 36l9-9 7 6"/><path class="tick" d="M24 30l7 7 14-17"/></svg>'
)


def theme() -> gr.themes.Base:
    """Return the theme. System fonts only: fetching fonts would tell another host who visits."""
    western = ["system-ui", "-apple-system", "Segoe UI", "Roboto"]
    chinese = ["PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC"]
    return gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=[*western, *chinese, "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(
        body_background_fill="#f6f7fb",
        body_background_fill_dark="#0d111a",
        block_background_fill="#ffffff",
        block_background_fill_dark="#161c29",
        block_border_color="#dfe3ec",
        block_border_color_dark="#2a3346",
        block_label_background_fill="#ffffff",
        block_label_background_fill_dark="#161c29",
        button_primary_background_fill="#4338ca",
        button_primary_background_fill_hover="#3730a3",
        button_primary_background_fill_dark="#4f46e5",
        button_primary_background_fill_hover_dark="#5851ea",
        button_primary_text_color="#ffffff",
        input_background_fill="#ffffff",
        input_background_fill_dark="#0f1420",
        input_border_width="1px",
        input_border_color="#aab4c5",
        input_border_color_dark="#4a566e",
        input_placeholder_color="#647087",
        input_placeholder_color_dark="#8b97ad",
        block_info_text_color="#526078",
        block_info_text_color_dark="#a3afc4",
        block_title_text_color="#1b2333",
        block_title_text_color_dark="#e8ecf5",
        block_title_text_weight="600",
        block_label_text_color="#526078",
        block_label_text_color_dark="#a3afc4",
    )
