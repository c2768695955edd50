"""One picture, many sentences: rows, their keys and buttons, over a scripted application."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from page.words import say
from service import api_keys
from tests.browser.conftest import Visit, wait_until
from tests.web import client
from tests.web.client import serving

Open = Callable[..., Visit]

SENTENCE = "#hypothesis textarea"
ROW = "#answer li.answer"
#: A shell would run, expand or end a word at parts of these.
HOSTILE = [
    "it's; touch hacked",
    "$(touch hacked) `touch hacked` ${HOME}",
    '"quoted" \\ !! & | > hacked < hacked',
    "@/etc/passwd;type=text/html",
    "line one\nline two\ttab",
    "--data '' # 😀",
]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[client.Page]:
    folder = tmp_path_factory.mktemp("ready")
    with serving(folder, "--model", "owner/name") as page:
        yield page


@pytest.fixture
def asked(visit: Open, ready: client.Page, red_circle: Path) -> Visit:
    """A page with three questions about one picture."""
    visitor = visit(ready.base)
    visitor.upload(red_circle)
    for sentence in ("one", "two", "three"):
        visitor.write(sentence)
        visitor.judge()
    return visitor


def sentences(page: Page) -> list[str]:
    """Return the sentences of the rows that are shown, in order."""
    return page.locator(f"{ROW}:visible .answer-sentence").all_text_contents()


def row(page: Page, sentence: str) -> Locator:
    return page.locator(ROW).filter(has=page.get_by_text(sentence, exact=True))


def told(visitor: Visit) -> dict[str, object]:
    """Return what the application was called with for the newest row, a "tell"."""
    answer: dict[str, object] = json.loads(visitor.page.locator(ROW).first.get_attribute("data-reason") or "")
    return answer


def test_each_sentence_adds_a_row_and_the_picture_stays(asked: Visit) -> None:
    page = asked.page
    assert sentences(page) == ["three", "two", "one"]
    expect(page.locator("#picture img")).to_have_count(1)
    for index in range(3):
        expect(page.locator(ROW).nth(index).locator(".bar-value")).to_have_text(["90.0%", "6.0%", "4.0%"])
    expect(page.locator("#answer .group")).to_have_count(1)
    expect(page.locator("#answer .group img")).to_have_js_property("naturalWidth", 480)


def test_another_picture_begins_a_group_and_the_former_one_closes(asked: Visit, tmp_path: Path) -> None:
    page = asked.page
    other = tmp_path / "other.png"
    Image.new("RGB", (90, 60), "navy").save(other)
    page.locator("#picture button[aria-label='Remove Image']").click()
    asked.upload(other)
    asked.write("four")
    asked.judge()
    assert sentences(page) == ["four"]
    first, second = page.locator("#answer .group").all()
    expect(first.locator("bdi").first).to_have_text("other.png")
    expect(first.locator("img")).to_have_js_property("naturalWidth", 90)
    second.locator("[data-do=toggle]").click()
    assert sentences(page) == ["four", "three", "two", "one"]
    second.locator("[data-do=use]").click()
    expect(page.locator(SENTENCE)).to_be_focused()
    asked.write("five")
    asked.judge()
    assert sentences(page) == ["five", "three", "two", "one"]


def test_an_edited_sentence_is_a_new_row_about_the_same_picture_and_premise(
    visit: Open, ready: client.Page, red_circle: Path
) -> None:
    visitor = visit(ready.base)
    page = visitor.page
    visitor.upload(red_circle)
    page.click("#premise-box button")
    page.fill("#premise textarea", "a premise")
    visitor.write("one")
    visitor.judge()
    expect(page.locator(ROW).first.locator(".answer-premise")).to_contain_text("a premise")
    page.fill("#premise textarea", "another premise")
    page.locator(ROW).first.focus()
    before = visitor.questions()
    page.keyboard.press("F2")
    page.keyboard.type("tell")
    page.keyboard.press("Enter")
    visitor.answer(before)
    assert told(visitor)["premise"] == "a premise"
    assert sentences(page) == ["tell", "one"]
    expect(page.locator(ROW).first).to_be_focused()
    # A row without a verdict is replaced.
    before = visitor.questions()
    page.keyboard.press("Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    visitor.answer(before)
    assert sentences(page) == ["two", "one"]


def test_escape_ends_an_edit_and_changes_nothing(asked: Visit) -> None:
    row(asked.page, "two").focus()
    asked.page.keyboard.press("Enter")
    asked.page.keyboard.type("other")
    asked.page.keyboard.press("Escape")
    expect(row(asked.page, "two")).to_be_focused()
    assert sentences(asked.page) == ["three", "two", "one"]


def test_an_answer_that_arrives_during_an_edit_leaves_the_edit_alone(
    visit: Open, ready: client.Page, red_circle: Path
) -> None:
    visitor, other = visit(ready.base), visit(ready.base)
    visitor.upload(red_circle)
    visitor.write("hold")
    visitor.page.click("#judge")
    visitor.page.locator(ROW).press("Enter")
    visitor.page.keyboard.type("two")
    other.upload(red_circle)
    other.write("release")
    other.judge()
    expect(visitor.page.locator(f"{ROW} .bar-value")).to_have_count(3)
    visitor.page.keyboard.type(" more")
    visitor.page.keyboard.press("Enter")
    expect(visitor.page.locator("#answer .answer-yes")).to_have_count(2)
    assert sentences(visitor.page) == ["two more", "hold"]


def test_arrow_keys_move_through_the_rows_and_delete_removes_one(asked: Visit) -> None:
    page = asked.page
    page.locator(ROW).first.focus()
    for key, sentence in [
        ("ArrowDown", "two"),
        ("End", "one"),
        ("ArrowDown", "one"),
        ("ArrowUp", "two"),
        ("Home", "three"),
        ("ArrowDown", "two"),
        ("Delete", "one"),
    ]:
        page.keyboard.press(key)
        expect(row(page, sentence)).to_be_focused()
    assert sentences(page) == ["three", "one"]
    for _ in range(2):
        page.keyboard.press("Delete")
    expect(page.locator(SENTENCE)).to_be_focused()
    expect(page.locator("#answer .answer-empty")).to_have_count(1)


def test_one_tab_stop_leads_to_the_rows_and_their_buttons_follow(asked: Visit) -> None:
    page = asked.page
    page.locator("#answer [data-do=toggle]").focus()
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.dataset.do ?? document.activeElement.tagName"))
    assert reached[:5] == ["LI", "edit", "json", "curl", "delete"]
    assert reached[5] not in ("LI", "edit")


@pytest.mark.parametrize("key", ["Control+Enter", "Meta+Enter"])
def test_control_or_command_with_enter_asks_from_anywhere(asked: Visit, key: str) -> None:
    asked.write("four")
    for focused in (SENTENCE, "#clear", f"{ROW} >> nth=0"):
        before = asked.questions()
        asked.page.locator(focused).focus()
        asked.page.keyboard.press(key)
        asked.answer(before)
    assert sentences(asked.page) == ["four"] * 3 + ["three", "two", "one"]


def test_questions_asked_while_one_is_judged_are_answered_in_turn(
    visit: Open, ready: client.Page, red_circle: Path
) -> None:
    visitor, other = visit(ready.base), visit(ready.base)
    visitor.upload(red_circle)
    for sentence in ("hold", "two", "three"):
        visitor.write(sentence)
        visitor.page.click("#judge")
    expect(visitor.page.locator("#answer .answer-pending")).to_have_count(3)
    other.upload(red_circle)
    other.write("release")
    other.judge()
    expect(visitor.page.locator("#answer .answer-yes")).to_have_count(3)
    assert sentences(visitor.page) == ["three", "two", "hold"]


# ---- paste -----------------------------------------------------------------------------------------------


COPY_PICTURE = """async () => {
  const canvas = new OffscreenCanvas(200, 100);
  canvas.getContext('2d').fillRect(0, 0, 200, 100);
  const blob = await canvas.convertToBlob({type: 'image/png'});
  await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]);
}"""


def test_what_is_pasted_anywhere_goes_to_its_field(visit: Open, ready: client.Page) -> None:
    visitor = visit(ready.base)
    page = visitor.page
    page.locator("#judge").focus()
    page.evaluate(COPY_PICTURE)
    page.keyboard.press("Control+V")
    expect(page.locator("#picture img")).to_have_js_property("naturalWidth", 200)
    page.evaluate("navigator.clipboard.writeText('there is a circle')")
    page.locator("#clear").focus()
    page.keyboard.press("Control+V")
    expect(page.locator(SENTENCE)).to_have_value("there is a circle")
    visitor.judge()
    # Into a field that has the focus, text goes as usual, and a picture goes to the picture.
    page.evaluate("navigator.clipboard.writeText(' and a star')")
    page.locator(SENTENCE).focus()
    page.keyboard.press("End")
    page.keyboard.press("Control+V")
    expect(page.locator(SENTENCE)).to_have_value("there is a circle and a star")
    page.evaluate(COPY_PICTURE.replace("200, 100", "120, 60"))
    page.keyboard.press("Control+V")
    expect(page.locator("#picture img")).to_have_js_property("naturalWidth", 120)
    assert visitor.errors == []


# ---- copy ------------------------------------------------------------------------------------------------


def copied(visitor: Visit, button: Locator) -> str:
    """Press the button and return the clipboard's text."""
    visitor.page.evaluate("navigator.clipboard.writeText('')")
    button.click()
    return str(wait_until(visitor.page, "navigator.clipboard.readText()", bool))


def test_a_row_and_all_rows_can_be_copied_as_json(asked: Visit) -> None:
    asked.write("reason busy")
    asked.judge()
    one = json.loads(copied(asked, row(asked.page, "two").locator("[data-do=json]")))
    scores = {"Yes": 0.9, "No": 0.06, "Maybe": 0.04}
    answer = {"label": "Yes", "score": 0.9, "scores": scores, "reason": None}
    assert one == {"picture": "red-circle.png", "text": "two", **answer}
    every = json.loads(copied(asked, asked.page.locator("#answer [data-do=all]")))
    assert [each["text"] for each in every] == ["reason busy", "three", "two", "one"]
    assert (every[0]["reason"], every[0]["scores"]) == ("busy", None)


def words_of(command: str, folder: Path) -> list[str]:
    """Return the words that a shell passes to ``curl`` for a command."""
    script = f"curl() {{ printf '%s\\0' \"$@\"; }}\n{command}"
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("sentence", HOSTILE)
def test_a_shell_passes_the_copied_sentence_to_curl_as_it_is(
    visit: Open, ready: client.Page, red_circle: Path, tmp_path: Path, sentence: str
) -> None:
    visitor = visit(ready.base)
    visitor.upload(red_circle)
    visitor.page.click("#premise-box button")
    visitor.page.fill("#premise textarea", sentence)
    visitor.write(sentence)
    visitor.judge()
    words = words_of(copied(visitor, visitor.page.locator("#answer [data-do=curl]")), tmp_path)
    spaced = sentence.replace("\n", " ").replace("\t", " ")
    texts = ["--form-string", f"text={spaced}", "--form-string", f"premise={spaced}"]
    assert words == ["-sS", "-F", "image=@PICTURE", *texts, f"{ready.base}/v1/judge"]
    assert not list(tmp_path.iterdir())


def test_the_copied_command_names_the_key_where_a_call_needs_one(
    visit: Open, tmp_path: Path, red_circle: Path
) -> None:
    keys = tmp_path / "keys"
    api_keys.make(keys, "shop")
    with serving(tmp_path, "--api-keys-file", str(keys), "--page", "open") as page:
        visitor = visit(page.base)
        visitor.upload(red_circle)
        visitor.write("one")
        visitor.judge()
        command = copied(visitor, visitor.page.locator("#answer [data-do=curl]"))
    words = words_of(f"KEY=the-key\n{command}", tmp_path)
    assert words[1:3] == ["-H", "Authorization: Bearer the-key"]


def test_rows_can_be_copied_where_the_browser_has_no_clipboard_for_pages(
    visit: Open, ready: client.Page, red_circle: Path
) -> None:
    """As over plain http from another machine."""
    hidden = "Object.defineProperty(Navigator.prototype, 'clipboard', {value: undefined})"
    visitor = visit(ready.base, script=hidden)
    visitor.upload(red_circle)
    visitor.write("one")
    visitor.judge()
    visitor.page.locator(f"{ROW} [data-do=json]").click()
    expect(visitor.page.locator("#answer [role=status]")).to_have_text(say("en", "rows.copied"))
    visitor.page.locator(SENTENCE).focus()
    visitor.page.keyboard.press("Control+A")
    visitor.page.keyboard.press("Control+V")
    expect(visitor.page.locator(SENTENCE)).not_to_have_value("one")
    assert json.loads(visitor.page.input_value(SENTENCE))["text"] == "one"


# ---- HEIC ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["", "application/octet-stream", "image/heic"])
def test_a_heic_file_is_uploaded_whatever_type_the_browser_gives_it(
    visit: Open, ready: client.Page, kind: str
) -> None:
    visitor = visit(ready.base)
    file = {"name": "IMG_0001.HEIC", "mimeType": kind, "buffer": b"\0\0\0\x18ftypheic"}
    with visitor.page.expect_response(lambda answer: "/gradio_api/upload" in answer.url):
        visitor.page.set_input_files("#picture input[type=file]", file)  # type: ignore[arg-type]
    visitor.page.locator("#picture img").wait_for(state="attached")
    visitor.write("tell")
    visitor.judge()
    assert str(told(visitor)["path"]).endswith(".HEIC")
    expect(visitor.page.locator("#answer .group bdi").first).to_have_text("IMG_0001.HEIC")


def test_the_file_chooser_offers_heic_by_its_suffix(visit: Open, ready: client.Page) -> None:
    visitor = visit(ready.base)
    with visitor.page.expect_file_chooser() as chooser:
        visitor.page.locator("#picture button[aria-label^='Drop']").click()
    accepted = chooser.value.element.get_attribute("accept") or ""
    assert {"image/*", ".heic", ".heif"} <= set(accepted.split(","))
