"""The real service in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from lab.instances.instance import ROOT, Instance
from page.words import STATIC, Language, say
from tests.browser.conftest import LOCALES, Visit

Open = Callable[..., Visit]

CARD = json.loads((ROOT / "models" / "demo" / "card.json").read_text(encoding="utf-8"))
EXAMPLES = CARD["examples"]
# Drags a file onto an element and drops it.
DROP_PDF = """element => {
  const held = new DataTransfer();
  held.items.add(new File(['%PDF-1.4'], 'private.pdf', {type: 'application/pdf'}));
  for (const kind of ['dragenter', 'dragover', 'drop']) {
    element.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: held}));
  }
}"""


@pytest.fixture
def english(visit: Open, running_service: Instance) -> Visit:
    return visit(running_service.page)


@pytest.fixture
def chinese(visit: Open, running_service: Instance) -> Visit:
    return visit(running_service.page, locale="zh-CN")


@pytest.mark.parametrize(
    ("sentence", "label"),
    [("there is a red circle", "Yes"), ("there is a blue star", "No"), ("the circle is heavy", "Maybe")],
)
def test_a_picture_and_a_sentence_get_their_verdict(
    english: Visit, red_circle: Path, sentence: str, label: str
) -> None:
    english.upload(red_circle)
    english.write(sentence)
    lines = [line for line in english.judge().splitlines() if line]
    assert lines[:2] == [say("en", f"label.{label}"), say("en", f"meaning.{label}")]
    shares = [float(line.strip("<%")) for line in lines if line.endswith("%")]
    assert len(shares) == 4
    assert shares[0] == max(shares)
    assert sum(shares[1:]) == pytest.approx(100, abs=0.5)
    assert re.fullmatch(r"\d+(\.\d+)? s · on (CPU|CUDA.*)", lines[-1])


def test_the_page_shows_the_ready_model_and_its_description(english: Visit) -> None:
    expect(english.page.locator("#state")).to_have_text(
        re.compile(rf"{say('en', 'state.ready')}\s+demo · (CPU|CUDA)"), use_inner_text=True
    )
    expect(english.page.locator("#knows")).to_contain_text("shapes")
    expect(english.page).to_have_title(STATIC["en"]["title"])


def test_a_missing_picture_is_an_input_error(english: Visit) -> None:
    english.write("there is a red circle")
    text = english.judge()
    assert say("en", "input.title") in text
    assert say("en", "input.no_image") in text
    assert english.page.locator("#answer [role=alert]").count() == 1


def test_a_missing_sentence_is_an_input_error(english: Visit, red_circle: Path) -> None:
    english.upload(red_circle)
    assert say("en", "input.no_text") in english.judge()


def test_a_file_that_is_not_a_picture_is_an_input_error(english: Visit, tmp_path: Path) -> None:
    fake = tmp_path / "holiday.png"
    fake.write_bytes(b"These are words. " * 50)
    english.page.set_input_files("#picture input[type=file]", fake)
    english.page.locator("#picture img").wait_for(state="attached")
    english.write("there is a red circle")
    assert say("en", "input.not_an_image") in english.judge()


@pytest.mark.parametrize(("locale", "language"), LOCALES)
@pytest.mark.parametrize("way", ["chosen", "dropped"])
def test_a_pdf_is_refused_before_the_upload(
    visit: Open,
    running_service: Instance,
    red_circle: Path,
    tmp_path: Path,
    way: str,
    locale: str,
    language: Language,
) -> None:
    pdf = tmp_path / "private.pdf"
    pdf.write_bytes(b"%PDF-1.4\n")
    visitor = visit(running_service.page, locale=locale)
    uploads: list[str] = []
    visitor.page.on("request", lambda sent: uploads.append(sent.url) if "/upload" in sent.url else None)
    if way == "chosen":
        visitor.page.set_input_files("#picture input[type=file]", pdf)
    else:
        visitor.page.locator("#picture button").first.evaluate(DROP_PDF)
    refused = visitor.page.locator("#answer .answer-input[role=alert]")
    expect(refused).to_contain_text(say(language, "input.not_an_image"))
    expect(visitor.page.locator("body")).not_to_contain_text("private.pdf")
    assert uploads == []
    visitor.upload(red_circle)
    expect(refused).to_have_count(0)
    visitor.write("there is a red circle")
    assert visitor.judge().startswith(say(language, "label.Yes"))
    visitor.page.click("#clear")
    expect(visitor.page.locator("#picture img")).to_have_count(0)
    visitor.page.set_input_files("#picture input[type=file]", pdf)
    expect(refused).to_contain_text(say(language, "input.not_an_image"))


def test_the_focus_stays_on_the_picture_after_an_upload(english: Visit, red_circle: Path) -> None:
    page = english.page
    in_picture = "document.activeElement.closest('#picture') !== null"
    page.locator("#picture button[aria-label^='Drop']").focus()
    english.upload(red_circle)
    page.wait_for_function(in_picture)
    page.wait_for_timeout(500)  # the browser takes the focus from a hidden button a little later
    assert page.evaluate(in_picture)
    reached = tab_to_sentence(page)
    assert reached[:2] == ["Fullscreen", "Remove Image"]
    page.locator("#picture button[aria-label='Remove Image']").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#picture img")).to_have_count(0)
    page.wait_for_function(in_picture)
    assert tab_to_sentence(page)[0] == "Drop an image file here to upload"


def test_an_upload_does_not_move_the_focus(english: Visit, red_circle: Path) -> None:
    english.page.focus("#hypothesis textarea")
    english.upload(red_circle)
    expect(english.page.locator("#hypothesis textarea")).to_be_focused()


def tab_to_sentence(page: Page) -> list[str]:
    """Return the names of the elements that the Tab key reaches before the sentence."""
    reached: list[str] = []
    while True:
        page.keyboard.press("Tab")
        name = page.evaluate(
            "document.activeElement.getAttribute('aria-label') ?? document.activeElement.tagName"
        )
        if name == "TEXTAREA":
            return reached
        reached.append(name)
        assert len(reached) < 20, reached


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_the_sentence_is_visible_on_a_small_phone(
    visit: Open, running_service: Instance, red_circle: Path, locale: str
) -> None:
    visitor = visit(running_service.page, locale=locale, width=375, height=667)
    sentence = visitor.page.locator("#hypothesis textarea")
    for _ in ("without a picture", "with one"):
        expect(sentence).to_be_in_viewport(ratio=1)
        assert visitor.page.evaluate("scrollY") == 0
        visitor.upload(red_circle)


def test_the_page_is_chinese_from_title_to_verdict(chinese: Visit, red_circle: Path) -> None:
    expect(chinese.page).to_have_title(STATIC["zh"]["title"])
    expect(chinese.page.locator("#judge")).to_have_text(STATIC["zh"]["judge"])
    expect(chinese.page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(chinese.page.locator("#state")).to_contain_text(say("zh", "state.ready"))
    for selector in (
        "#masthead",
        "#knows",
        "#examples h2",
        "#footer",
        "#picture",
        "#hypothesis",
    ):
        expect(chinese.page.locator(selector)).to_have_text(re.compile(r"[\u4e00-\u9fff]"))
    chinese.upload(red_circle)
    chinese.write("there is a red circle")
    text = chinese.judge()
    assert text.startswith(say("zh", "label.Yes"))
    assert say("zh", "meaning.Yes") in text
    assert say("zh", "on_device", device="") in text


def test_input_errors_are_chinese(chinese: Visit) -> None:
    chinese.write("there is a red circle")
    text = chinese.judge()
    assert say("zh", "input.title") in text
    assert say("zh", "input.no_image") in text


def test_markup_in_a_sentence_stays_text(english: Visit, red_circle: Path) -> None:
    english.upload(red_circle)
    english.write("<img src=x onerror=\"document.body.dataset.hacked='yes'\"><script>alert(1)</script>")
    english.judge()
    assert english.page.get_attribute("body", "data-hacked") is None
    assert english.page.locator("#answer li img, #answer script").count() == 0


#: tests/demo/test_model.py judges all examples.
SHOWN = ("existence", "negation", "maybe")


@pytest.mark.parametrize(
    "index",
    [
        pytest.param(
            index,
            id=example["category"],
            marks=() if example["category"] in SHOWN else pytest.mark.long,
        )
        for index, example in enumerate(EXAMPLES)
    ],
)
def test_an_example_of_each_category_fills_the_page_and_gets_its_verdict(english: Visit, index: int) -> None:
    example = EXAMPLES[index]
    card = english.page.locator(".card").nth(index)
    sentence = card.locator(".card-sentence").inner_text()
    card.click()
    assert english.answer().startswith(f"{example['label']}\n")
    assert sentence == example["hypothesis"]
    expect(english.page.locator("#hypothesis textarea")).to_have_value(sentence)
    expect(english.page.locator("#picture img")).to_have_count(1)


def test_the_examples_cover_the_models_categories_and_say_why(english: Visit, chinese: Visit) -> None:
    assert [example["category"] for example in EXAMPLES] == CARD["categories"]
    expect(english.page.locator(".card")).to_have_count(len(EXAMPLES))
    for visit, language in ((english, "en"), (chinese, "zh")):
        texts = visit.page.locator(".card small").all_inner_texts()
        for text, example in zip(texts, EXAMPLES, strict=True):
            assert text.endswith(example["explain"][language])


def test_the_keyboard_is_enough(english: Visit, red_circle: Path) -> None:
    english.upload(red_circle)
    english.page.focus("#hypothesis textarea")
    english.page.keyboard.type("there is a red circle")
    english.page.keyboard.press("Enter")
    assert english.answer().startswith("Yes")
    english.page.locator(".card").last.focus()
    sentence = english.page.locator(".card .card-sentence").last.inner_text()
    english.page.keyboard.press("Enter")
    english.page.wait_for_function(
        "sentence => document.querySelector('#hypothesis textarea').value === sentence", arg=sentence
    )


def test_clear_empties_the_form_and_keeps_the_answers(english: Visit, red_circle: Path) -> None:
    english.upload(red_circle)
    english.judge()
    assert english.page.locator("#answer [role=alert]").count() == 1
    english.write("there is a red circle")
    english.judge()
    english.page.click("#clear")
    expect(english.page.locator("#hypothesis textarea")).to_have_value("")
    expect(english.page.locator("#picture img")).to_have_count(0)
    expect(english.page.locator("#answer .answer-yes")).to_have_count(1)


def test_the_premise_is_hidden_for_a_model_without_one(english: Visit) -> None:
    assert english.page.locator("#premise-box").count() == 0


def test_a_picture_can_be_taken_with_the_camera(english: Visit) -> None:
    english.page.click("#picture button[aria-label='Capture from camera']")
    english.page.click("#picture button:has-text('Webcam')")
    english.page.wait_for_function("document.querySelector('#picture video').videoWidth > 0")
    english.page.click("#picture button[aria-label='capture photo']")
    english.page.locator("#picture img").wait_for()
    english.write("there is a red circle")
    assert re.match(r"(Yes|No|Maybe)\n", english.judge())


def test_a_picture_can_be_pasted(english: Visit) -> None:
    english.page.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(200, 200), brush = canvas.getContext('2d');
          brush.fillStyle = 'white'; brush.fillRect(0, 0, 200, 200);
          brush.fillStyle = 'red'; brush.arc(100, 100, 60, 0, 7); brush.fill();
          const blob = await canvas.convertToBlob({type: 'image/png'});
          await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]);
        }"""
    )
    english.page.click("#picture button[aria-label='Paste from clipboard']")
    english.page.locator("#picture img").wait_for()
    english.write("there is a red circle")
    assert english.judge().startswith("Yes")


def test_no_other_host_is_contacted_and_no_error_occurs(
    english: Visit, red_circle: Path, running_service: Instance
) -> None:
    english.upload(red_circle)
    english.write("there is a red circle")
    english.judge()
    english.page.wait_for_load_state("networkidle")
    assert english.hosts == {urlsplit(running_service.page).netloc}
    assert english.errors == []


@pytest.mark.parametrize(
    "width", [320, *(pytest.param(width, marks=pytest.mark.long) for width in (390, 768)), 1280]
)
def test_no_element_is_wider_than_the_screen(
    visit: Open, running_service: Instance, red_circle: Path, width: int
) -> None:
    visitor = visit(running_service.page, width=width)
    visitor.upload(red_circle)
    visitor.write("there is a red circle")
    visitor.judge()
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
    expect(visitor.page.locator("#answer .answer").first).to_be_in_viewport(ratio=1)
