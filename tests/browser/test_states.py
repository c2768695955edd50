"""The page without a verdict, and while one is pending, over a scripted application."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from lab.instances.instance import ROOT
from page.words import STATIC, Language, say
from service.http import bodies
from tests.browser.conftest import LOCALES, Visit
from tests.web.client import Page, serving

Open = Callable[..., Visit]
DEMO = ROOT / "models" / "demo"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("ready")
    with serving(folder, "--timeout", "15", "--model", "owner/name") as page:
        yield page


def poll_status(visitor: Visit) -> None:
    """Make the page poll the status now, as when its tab becomes visible."""
    visitor.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


@pytest.mark.parametrize(
    ("reason", "locale", "language"),
    [
        *((reason, "en-US", "en") for reason in ("busy", "timeout", "error", "loading", "stopping")),
        ("busy", "zh-CN", "zh"),
    ],
)
def test_a_missing_verdict_is_shown_with_its_reason_and_remedy(
    visit: Open, ready: Page, red_circle: Path, reason: str, locale: str, language: Language
) -> None:
    visitor = visit(ready.base, locale=locale)
    visitor.upload(red_circle)
    visitor.write(f"reason {reason}")
    text = visitor.judge()
    assert text.startswith(say(language, "none.title"))
    for key in ("none.lead", f"none.{reason}", f"none.{reason}.do"):
        assert say(language, key, limit=15, seconds=4) in text
    assert "%" not in text
    assert visitor.page.get_attribute("#answer .answer-none", "data-reason") == reason
    expect(visitor.page.locator("#answer [role=status]")).to_contain_text(say(language, "none.title"))


def test_a_premise_can_be_given(visit: Open, ready: Page, red_circle: Path) -> None:
    visitor = visit(ready.base, locale="zh-CN")
    visitor.upload(red_circle)
    visitor.write("tell")
    expect(visitor.page.locator("#premise-box")).to_contain_text(STATIC["zh"]["premise_title"])
    visitor.page.click("#premise-box button")
    visitor.page.fill("#premise textarea", "a premise")
    visitor.judge()
    handed = json.loads(visitor.page.get_attribute("#answer .answer", "data-reason") or "")
    assert (handed["premise"], handed["source"]) == ("a premise", "page")


def test_a_model_without_a_card_has_no_description(visit: Open, ready: Page) -> None:
    visitor = visit(ready.base)
    expect(visitor.page.locator("#knows")).to_contain_text(STATIC["en"]["knows_unknown"])
    expect(visitor.page.locator(".card")).not_to_have_count(0)


@pytest.mark.parametrize(
    ("state", "facts"),
    [
        ("loading", ["26%", say("en", "state.progress", done="500.0", total="1900.0")]),
        ("failed", []),
        ("degraded", ["demo · CPU"]),
    ],
)
def test_the_status_line_shows_the_state(
    visit: Open, ready: Page, red_circle: Path, state: str, facts: list[str]
) -> None:
    visitor = visit(ready.base)
    visitor.upload(red_circle)
    visitor.write(f"state {state}")
    visitor.judge()
    poll_status(visitor)
    line = visitor.page.locator(f"#state .state-{state}").inner_text()
    expected = [say("en", f"state.{state}", device="CPU"), say("en", f"state.{state}.do"), *facts]
    assert [text for text in expected if text not in line] == []


def test_a_lost_connection_is_shown_and_so_is_its_return(visit: Open, tmp_path: Path) -> None:
    with serving(tmp_path) as page:
        visitor = visit(page.base)
        port = int(page.base.rpartition(":")[2])
        page.end()
        poll_status(visitor)
        visitor.page.locator("#state .state-lost").wait_for()
    with serving(tmp_path, port=port):
        visitor.page.locator("#state .state-ready").wait_for()


def test_a_page_open_during_a_restart_uploads_the_picture_again(
    visit: Open, tmp_path: Path, red_circle: Path
) -> None:
    with serving(tmp_path) as page:
        port = int(page.base.rpartition(":")[2])
        visitor = visit(page.base)
        visitor.upload(red_circle)
        visitor.write("there is a circle")
        visitor.judge()
        page.process.kill()
    with serving(tmp_path, port=port) as page:
        visitor.write("tell")
        assert sha_of_submitted_picture(visitor) == hashlib.sha256(red_circle.read_bytes()).hexdigest()
        assert len(page.uploads) == 1


def sha_of_submitted_picture(visitor: Visit) -> str:
    """Press the button and return the SHA-256 of the picture that "tell" was called with."""
    visitor.judge()
    handed = json.loads(visitor.page.get_attribute("#answer .answer", "data-reason") or "")
    return str(handed["sha"])


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_a_deleted_picture_is_uploaded_again_every_time(
    visit: Open, ready: Page, red_circle: Path, locale: str
) -> None:
    visitor = visit(ready.base, locale=locale)
    visitor.upload(red_circle)
    for _ in range(3):
        for path in ready.uploads:
            shutil.rmtree(path.parent)
        visitor.write("tell")
        assert sha_of_submitted_picture(visitor) == hashlib.sha256(red_circle.read_bytes()).hexdigest()
        assert len(ready.uploads) == 1
        visitor.write("reason busy")
        visitor.judge()
        assert len(ready.uploads) == 1, "an existing picture is not uploaded again"


def test_a_deleted_example_is_uploaded_again(visit: Open, ready: Page) -> None:
    visitor = visit(ready.base)
    visitor.page.locator(".card").first.click()
    visitor.answer()
    shutil.rmtree(next(ready.temporary.glob("ofa-page-*")))
    visitor.write("tell")
    card = json.loads((DEMO / "card.json").read_text(encoding="utf-8"))
    example = DEMO / card["examples"][0]["image"]
    assert sha_of_submitted_picture(visitor) == hashlib.sha256(example.read_bytes()).hexdigest()


@pytest.mark.parametrize(("locale", "language"), LOCALES)
def test_a_deleted_picture_that_cannot_be_uploaded_again_is_an_input_error(
    visit: Open, ready: Page, red_circle: Path, locale: str, language: Language
) -> None:
    visitor = visit(ready.base, locale=locale)
    visitor.upload(red_circle)
    for path in ready.uploads:
        shutil.rmtree(path.parent)
    visitor.page.route("**/gradio_api/upload*", lambda route: route.fulfill(status=507, body="no room"))
    visitor.write("tell")
    visitor.page.click("#judge")
    expect(visitor.page.locator("#answer")).to_contain_text(say(language, "input.upload_gone"))


def test_a_file_far_over_the_limit_is_refused_with_an_explanation(visit: Open, tmp_path: Path) -> None:
    """Before all of it arrives: the server closes the connection, and the browser shows its answer."""
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(200_000_000)
    with serving(tmp_path, "--max-bytes", "100000") as page:
        visitor = visit(page.base)
        visitor.page.set_input_files("#picture input[type=file]", large)
        expect(visitor.page.locator("body")).to_contain_text(bodies.too_large().text)
        assert page.uploads == []


def test_a_question_that_cannot_be_sent_is_a_row_without_a_verdict(
    visit: Open, tmp_path: Path, red_circle: Path
) -> None:
    with serving(tmp_path) as page:
        visitor = visit(page.base)
        visitor.upload(red_circle)
        visitor.write("there is a circle")
        visitor.judge()
        page.process.kill()
    visitor.write("there is a star")
    visitor.judge()
    newest, older = (visitor.page.locator("#answer li.answer").nth(index) for index in (0, 1))
    expect(newest).to_contain_text("there is a star")
    expect(newest).to_have_attribute("data-reason", "unanswered")
    expect(older).to_contain_text("there is a circle")
    expect(older.locator(".bars")).to_have_count(1)


# ---- a pending answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("locale", "language"), LOCALES)
def test_queue_position_and_estimated_wait_are_shown_before_the_answer(
    visit: Open, ready: Page, red_circle: Path, locale: str, language: Language
) -> None:
    visitor, other = visit(ready.base, locale=locale), visit(ready.base)
    visitor.upload(red_circle)
    visitor.write("hold 3 600")  # the estimate shown is capped at the time limit of 15 s
    visitor.page.click("#judge")
    card = visitor.page.locator("#answer .answer-pending")
    expect(card).to_contain_text(say(language, "pending.title"))
    expect(card).to_contain_text(say(language, "pending.ahead.many", count=3))
    expect(card).to_contain_text(say(language, "about.seconds", s=15))
    other.upload(red_circle)
    other.write("release")
    other.judge()
    assert visitor.answer().startswith(say(language, "label.Yes"))
    expect(card).to_have_count(0)
    assert visitor.errors == []


def test_an_answer_later_than_estimated_is_announced(visit: Open, ready: Page, red_circle: Path) -> None:
    visitor = visit(ready.base)
    visitor.upload(red_circle)
    visitor.write("hold 0 0.5")
    visitor.page.click("#judge")
    card = visitor.page.locator("#answer .answer-pending")
    expect(card).to_contain_text(say("en", "pending.late", limit=15))


@pytest.mark.parametrize(("locale", "language"), LOCALES)
def test_the_status_line_shows_the_queue_and_its_estimated_wait(
    visit: Open, ready: Page, red_circle: Path, locale: str, language: Language
) -> None:
    visitor = visit(ready.base, locale=locale)
    visitor.upload(red_circle)
    visitor.write("state queue")
    visitor.judge()
    poll_status(visitor)
    queue = visitor.page.locator("#state .state-queue")
    expect(queue).to_contain_text(say(language, "queue.waiting.many", count=3))
    expect(queue).to_contain_text(say(language, "queue.wait", about=say(language, "about.seconds", s=6)))
    visitor.write("state ready")
    visitor.judge()
    expect(queue).to_have_count(0)
