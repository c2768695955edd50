"""The page's components and events."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from html import escape
from pathlib import Path
from typing import Any, Final

import gradio as gr

from page import verdicts
from page.card import Card, Example
from page.handlers import Application, Handlers
from page.log_limit import LogLimit
from page.picture import Picture
from page.uploads import Uploads
from page.words import DEFAULT, DYNAMIC, LANGUAGES, STATIC, Language
from service.callers import Callers
from service.contract.causes import InputCode
from service.contract.errors import InputError

log = logging.getLogger(__name__)
_not_understood = LogLimit(60.0)

ASSETS: Final = Path(__file__).resolve().parent

# What browsers ask for when they mean one of our languages; Gradio matches whole tags.
TAGS: Final[dict[Language, tuple[str, ...]]] = {
    "en": ("en",),
    "zh": ("zh", "zh-CN", "zh-TW", "zh-HK", "zh-SG"),
}

OPERATIONS: Final = (ASSETS / "operations.js").read_text(encoding="utf-8")

NOT_UNDERSTOOD: Final = (
    'The call is not understood. Send "data": [picture, text, premise or null]; a picture is '
    '{"path": what /gradio_api/upload answered, "meta": {"_type": "gradio.FileData"}}.'
)

PICK_EXAMPLE: Final = """
element.addEventListener('click', (event) => {
  const card = event.target.closest('[data-example]');
  if (card) trigger('select', {index: Number(card.dataset.example)});
});
"""

# Gradio refuses a file that the browser does not call a picture before it is uploaded, in English and with
# its name. Taken here first; the second event, a drop of nothing, ends Gradio's highlight.
REFUSE_FILE: Final = """
const refuse = (event) => {
  const files = [...((event.dataTransfer ?? event.target).files ?? [])];
  if (!event.target.closest?.('#picture') || files.every((file) => file.type.startsWith('image/'))) return;
  event.preventDefault();
  event.stopPropagation();
  if (event.type === 'drop') {
    const nothing = {bubbles: true, cancelable: true, dataTransfer: new DataTransfer()};
    event.target.dispatchEvent(new DragEvent('drop', nothing));
  }
  trigger('upload');
};
for (const kind of ['change', 'drop']) document.addEventListener(kind, refuse, true);
"""


class Page(gr.Blocks):
    """Blocks that answer a call they do not understand with a sentence.

    Gradio answers it with nothing and prints what was sent; what people send is not printed here. A picture
    that is not there is understood: the handler says so, in the person's language.
    """

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        refused = {
            index: refusal
            for index, (block, value) in enumerate(zip(block_fn.inputs, inputs, strict=False))
            if isinstance(block, Picture) and (refusal := block.refusal(value))
        }
        held = [None if index in refused else value for index, value in enumerate(inputs)]
        try:
            values = await super().preprocess_data(block_fn, held, *args, **kwargs)
            return [refused.get(index, value) for index, value in enumerate(values)]
        except gr.Error:
            raise
        except Exception as error:
            if _not_understood.allows():
                log.warning(
                    "CALL_NOT_UNDERSTOOD | ERROR=%s | MORE=%d",
                    *(type(error).__name__, _not_understood.suppressed()),
                )
            raise gr.Error(NOT_UNDERSTOOD, title="bad_call", print_exception=False) from None


def build(
    application: Application,
    uploads: Uploads,
    *,
    intake: Executor,
    limit: float,
    card: Card,
    operations: bool = False,
    callers: Callers | None = None,
) -> gr.Blocks:
    """The page over ``application``, called in ``intake``; ``limit`` is its time limit in seconds,
    ``operations`` says whether there is a tab for operators, ``callers`` whose a request is."""
    judging = Handlers(
        application,
        intake=intake,
        limit=limit,
        examples=card.examples,
        callers=callers,
        in_use=uploads.in_use,
    )
    words = translations(card)
    say = gr.I18n(**words)
    with Page(
        title=STATIC[DEFAULT]["title"],  # page.js puts the translated one in its place
        analytics_enabled=False,
        fill_width=True,
    ) as page:
        gr.HTML(say("header_html"), elem_id="masthead")
        gr.HTML('<div id="state" aria-live="polite"></div>', elem_id="state-host")
        if operations:
            with gr.Tabs(elem_id="tabs"):
                with gr.Tab(say("tab_ask"), elem_id="ask"):
                    _ask(judging, uploads, say, card)
                with gr.Tab(say("tab_ops"), elem_id="operations"):
                    gr.HTML('<div id="ops"></div>', elem_id="ops-host", js_on_load=OPERATIONS)
        else:
            _ask(judging, uploads, say, card)
        gr.HTML(say("footer_html"), elem_id="footer")
    page.i18n_instance = say
    return page


def _ask(judging: Handlers, uploads: Uploads, say: gr.I18n, card: Card) -> None:
    """What a person fills in, the answer, and examples to try."""
    with gr.Row(elem_id="desk", equal_height=False):
        with gr.Column(scale=5, min_width=320):
            inputs = _inputs(uploads, say, card)
            with gr.Row(elem_id="buttons"):
                clear = gr.Button(say("clear"), elem_id="clear", scale=1, min_width=90)
                judge = gr.Button(say("judge"), variant="primary", elem_id="judge", scale=3, min_width=150)
        with gr.Column(scale=4, min_width=320):
            answer = gr.HTML(
                say("empty_html"),
                elem_id="answer",
                container=False,
                min_height=180,
                js_on_load=REFUSE_FILE,
            )
            gr.HTML(say("knows_html"), elem_id="knows")
    examples = gr.HTML(
        say("examples_html"),
        elem_id="examples",
        js_on_load=PICK_EXAMPLE,
        visible=bool(card.examples),
    )
    _wire(judging, say, inputs, answer, judge, clear, examples)


def _inputs(uploads: Uploads, say: gr.I18n, card: Card) -> list[Any]:
    """Picture, sentence and premise; the last is there for programs even where the model takes none."""
    picture = Picture(
        type="filepath",
        label=say("picture"),
        placeholder=say("picture_hint"),  # type: ignore[arg-type]  # translated like any other prop
        sources=["upload", "clipboard", "webcam"],
        webcam_options=gr.WebcamOptions(mirror=False),
        buttons=["fullscreen"],
        height=340,
        elem_id="picture",
    )
    picture.uploads = uploads
    picture.own = frozenset(example.image for example in card.examples)
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
    judging: Handlers,
    say: gr.I18n,
    inputs: list[Any],
    answer: gr.HTML,
    judge: gr.Button,
    clear: gr.Button,
    examples: gr.HTML,
) -> None:
    # concurrency_limit=None throughout: the service's queue is the only one a request waits in.
    quiet: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None}
    asked: dict[str, Any] = {
        "fn": judging.for_page,
        "inputs": inputs,
        "outputs": answer,
        "show_progress": "hidden",  # the answer's place tells it itself, in the service's own figures
    }
    asks = [judge.click, inputs[1].submit, inputs[2].submit]
    # In the browser alone, so that no verdict stands beside a question it does not answer, whatever becomes
    # of the call. Who asks again while the answer is awaited goes on seeing that it is.
    empty, refused = (json.dumps(str(say(name))) for name in ("empty_html", "refused_html"))
    anew = f"shown => String(shown).includes('answer-pending') ? shown : {empty}"
    gr.on([*asks, examples.select], None, answer, answer, js=anew, show_progress="hidden", **quiet)
    answer.upload(None, None, answer, js=f"() => {refused}", show_progress="hidden", **quiet)
    corrected = f"shown => String(shown).includes('answer-input') ? {empty} : shown"
    inputs[0].input(None, answer, answer, js=corrected, show_progress="hidden", **quiet)
    gr.on(asks, trigger_mode="once", **asked, **quiet)
    examples.select(judging.fill, None, inputs, show_progress="hidden", **quiet).success(**asked, **quiet)
    clear.click(
        lambda: (None, "", "", say("empty_html")), None, [*inputs, answer], show_progress="hidden", **quiet
    )

    program = gr.Button(visible=False)
    result = gr.JSON(label="answer", visible=False)
    program.click(
        judging.for_programs,
        inputs,
        result,
        api_name="judge",
        concurrency_limit=None,
        show_progress="hidden",
    )


def translations(card: Card) -> dict[str, dict[str, str]]:
    """Every static text by language tag: the plain ones of labels and the HTML made of them."""
    told: dict[str, dict[str, str]] = {}
    for language in LANGUAGES:
        texts = {**STATIC[language], **_html(language, card)}
        told |= dict.fromkeys(TAGS[language], texts)
    return told


def _html(language: Language, card: Card) -> dict[str, str]:
    word = {key: escape(text) for key, text in STATIC[language].items()}
    knows = escape(card.knows.get(language, "")) or word["knows_unknown"]
    return {
        "header_html": f"<header>{MARK}<div><h1>{word['title']}</h1><p>{word['lead']}</p></div></header>",
        "empty_html": f'<section class="answer answer-empty"><h3>{word["empty_title"]}</h3>'
        f"<p>{word['empty_text']}</p></section>",
        "refused_html": verdicts.refusal(InputError("", code=InputCode.NOT_AN_IMAGE), language),
        "knows_html": f"<section><h2>{word['knows']}</h2><p>{knows}</p></section>",
        "examples_html": f"<section><h2>{word['examples']}</h2><p>{word['examples_text']}</p>"
        f'<div class="cards">{_cards(card.examples, language)}</div></section>',
        "footer_html": f"<footer>{word['privacy']}</footer>",
    }


def _cards(examples: Sequence[Example], language: Language) -> str:
    return "".join(
        f'<button type="button" class="card" data-example="{index}">'
        f'<img src="example/{index}" alt="" loading="lazy"><span><span class="card-sentence">'
        f"{escape(example.hypothesis)}</span>{_reason(example, language)}</span></button>"
        for index, example in enumerate(examples)
    )


def _reason(example: Example, language: Language) -> str:
    """The right answer and why it is right."""
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
    """System fonts only: a page that fetches fonts tells a stranger who looks at it."""
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
        button_primary_background_fill_hover_dark="#6366f1",
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
