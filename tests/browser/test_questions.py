"""A day's work with the real service and the demo model: many sentences about pictures."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from lab.instances.instance import ROOT, Instance
from page.words import Language, say
from tests.browser.conftest import Visit, wait_until
from tests.heic import heic

Open = Callable[..., Visit]

EXAMPLES = ROOT / "models" / "demo" / "examples"
SCREENSHOT = ROOT / "docs" / "images" / "page.png"
ROW = "#answer li.answer"
ASKED = [
    ("colour.png", [("the circle is yellow", "No"), ("there is a blue circle", "Yes")]),
    (
        "size.png",
        [
            ("there is a circle", "No"),
            ("the red square is heavy", "Maybe"),
            ("the red square is small", "Yes"),
        ],
    ),
]


def test_many_sentences_about_two_pictures_get_their_verdicts(visit: Open, running_service: Instance) -> None:
    visitor = visit(running_service.page, height=1140)
    page = visitor.page
    for picture, questions in ASKED:
        if page.locator("#picture img").count():
            page.locator("#picture button[aria-label='Remove Image']").click()
        visitor.upload(EXAMPLES / picture)
        for sentence, label in questions:
            visitor.write(sentence)
            assert visitor.judge().startswith(say("en", f"label.{label}"))
            expect(page.locator(ROW).first).to_contain_text(sentence)
    names = page.locator("#answer .group bdi").all_text_contents()
    assert [name for name in names if name.endswith(".png")] == ["size.png", "colour.png"]
    if os.environ.get("SAVE_SCREENSHOT"):
        page.mouse.move(0, 0)
        page.emulate_media(reduced_motion="reduce")  # the bars do not grow
        SCREENSHOT.write_bytes(page.screenshot())


def test_the_copied_curl_command_gets_the_same_verdict(
    visit: Open, running_service: Instance, tmp_path: Path
) -> None:
    visitor = visit(running_service.page)
    visitor.upload(EXAMPLES / "existence.png")
    visitor.write('there isn\'t a "blue" star; $(touch hacked)')
    visitor.judge()
    page = visitor.page
    copied = {}
    for kind in ("json", "curl"):
        page.evaluate("navigator.clipboard.writeText('')")
        page.click(f"{ROW} [data-do={kind}]")
        copied[kind] = wait_until(page, "navigator.clipboard.readText()", bool)
    command = copied["curl"].replace("@PICTURE", f"@{EXAMPLES / 'existence.png'}")
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True, timeout=60)
    (result,) = json.loads(done.stdout)["results"]
    shown = json.loads(copied["json"])
    assert (result["label"], round(result["score"], 3)) == (shown["label"], round(shown["score"], 3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("locale", "language"), [("en-US", "en"), ("zh-CN", "zh")])
def test_a_sentence_in_another_language_is_a_row_that_says_so(
    visit: Open, running_service: Instance, red_circle: Path, locale: str, language: Language
) -> None:
    visitor = visit(running_service.page, locale=locale)
    visitor.upload(red_circle)
    visitor.write("这里有一个红色的圆")
    text = visitor.judge()
    assert say(language, "input.language") in text
    expect(visitor.page.locator(ROW)).to_have_class("answer answer-input")
    before = visitor.questions()
    visitor.page.locator(ROW).press("Enter")
    visitor.page.keyboard.type("there is a red circle")
    visitor.page.keyboard.press("Enter")
    assert visitor.answer(before).startswith(say(language, "label.Yes"))
    expect(visitor.page.locator(ROW)).to_have_count(1)


def test_a_heic_picture_is_judged_and_asked_about_after_a_reload(
    visit: Open, running_service: Instance, red_circle: Path
) -> None:
    """This browser cannot show it, and says so."""
    visitor = visit(running_service.page)
    with Image.open(red_circle) as picture:
        buffer = heic(picture)
    visitor.page.set_input_files(
        "#picture input[type=file]", {"name": "IMG_0001.HEIC", "mimeType": "", "buffer": buffer}
    )
    preview = visitor.page.locator("#picture img")
    expect(preview).to_have_attribute("alt", say("en", "rows.no_preview"))
    visitor.write("there is a red circle")
    assert visitor.judge().startswith(say("en", "label.Yes"))
    visitor.page.reload()
    visitor.page.click("#answer [data-do=use]")
    preview.wait_for(state="attached")
    visitor.write("there is a blue star")
    assert visitor.judge().startswith(say("en", "label.No"))
