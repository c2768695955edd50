"""What the page shows when there is no verdict to show, over an application that answers as told."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from lab.instances.instance import ROOT
from tests.browser.conftest import Visit
from tests.web.client import Page, serving

Open = Callable[..., Visit]
DEMO = ROOT / "models" / "demo"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("ready")
    with serving(folder, "--timeout", "15", "--model", "owner/name") as page:
        yield page


def look_again(visitor: Visit) -> None:
    """As when the tab is shown again: the page asks for the state now, and not when it would have next."""
    visitor.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


@pytest.mark.parametrize(
    ("reason", "why", "do"),
    [
        ("busy", "Too many requests are waiting.", "Try again in about 4 seconds."),
        ("timeout", "The model did not finish within 15 seconds.", "Try again."),
        ("error", "Something went wrong", "Try again."),
        ("loading", "The model is still loading.", "Wait until"),
        ("stopping", "The server is shutting down.", "Try again in a minute"),
    ],
)
def test_no_verdict_is_shown_as_such_with_why_and_what_to_do(
    visit: Open, ready: Page, red_circle: Path, reason: str, why: str, do: str
) -> None:
    visitor = visit(ready.base)
    visitor.upload(red_circle)
    visitor.write(f"reason {reason}")
    told = visitor.judge()
    assert told.startswith("No verdict")
    assert "This is not an answer of the model." in told
    assert why in told
    assert do in told
    assert "%" not in told
    assert visitor.page.locator("#answer .answer-none[role=alert]").count() == 1


def test_no_verdict_in_chinese(visit: Open, ready: Page, red_circle: Path) -> None:
    visitor = visit(ready.base, locale="zh-CN")
    visitor.upload(red_circle)
    visitor.write("reason busy")
    told = visitor.judge()
    assert told.startswith("没有判断结果")
    assert "这不是模型的回答。" in told
    assert "请在大约 4 秒后再试。" in told


def test_a_premise_can_be_given(visit: Open, ready: Page, red_circle: Path) -> None:
    visitor = visit(ready.base, locale="zh-CN")
    visitor.upload(red_circle)
    visitor.write("tell")
    expect(visitor.page.locator("#premise-box")).to_contain_text("添加前提")
    visitor.page.click("#premise-box button")
    visitor.page.fill("#premise textarea", "a premise")
    visitor.judge()
    handed = json.loads(visitor.page.get_attribute("#answer .answer", "data-reason") or "")
    assert (handed["premise"], handed["source"]) == ("a premise", "page")


def test_a_model_without_a_card_claims_nothing(visit: Open, ready: Page) -> None:
    visitor = visit(ready.base)
    expect(visitor.page.locator("#knows")).to_contain_text("This model brings no card")
    expect(visitor.page.locator(".card")).not_to_have_count(0)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("loading", ["The model is loading", "26%", "500.0 of 1900.0 MB"]),
        ("failed", ["The model could not be loaded", "until the server has been restarted"]),
        ("degraded", ["Working with reduced strength", "demo · CPU"]),
    ],
)
def test_the_line_at_the_top_says_where_the_service_stands(
    visit: Open, ready: Page, red_circle: Path, state: str, told: list[str]
) -> None:
    visitor = visit(ready.base)
    visitor.upload(red_circle)
    visitor.write(f"state {state}")
    visitor.judge()
    look_again(visitor)
    line = visitor.page.locator(f"#state .state-{state}").inner_text()
    assert [words for words in told if words not in line] == []


def test_a_server_that_is_gone_is_noticed_and_so_is_its_return(visit: Open, tmp_path: Path) -> None:
    with serving(tmp_path) as page:
        visitor = visit(page.base)
        port = int(page.base.rpartition(":")[2])
        page.end()
        look_again(visitor)
        visitor.page.locator("#state .state-lost").wait_for()
    with serving(tmp_path, port=port):
        visitor.page.locator("#state .state-ready").wait_for()


def test_a_page_that_stayed_open_over_a_restart_sends_the_picture_again(
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
        visitor.page.click("#judge")
        assert sha_of_what_was_handed_over(visitor) == hashlib.sha256(red_circle.read_bytes()).hexdigest()
        assert len(page.uploads) == 1


def sha_of_what_was_handed_over(visitor: Visit) -> str:
    """Of the picture, when "tell" was asked."""
    visitor.answer()
    handed = json.loads(visitor.page.get_attribute("#answer .answer", "data-reason") or "")
    return str(handed["sha"])


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_a_picture_that_was_deleted_is_sent_again_as_often_as_it_takes(
    visit: Open, ready: Page, red_circle: Path, locale: str
) -> None:
    visitor = visit(ready.base, locale=locale)
    visitor.upload(red_circle)
    for _ in range(3):
        for path in ready.uploads:
            shutil.rmtree(path.parent)
        visitor.write("tell")
        visitor.page.click("#judge")
        assert sha_of_what_was_handed_over(visitor) == hashlib.sha256(red_circle.read_bytes()).hexdigest()
        assert len(ready.uploads) == 1
        visitor.write("reason busy")
        visitor.page.click("#judge")
        visitor.page.locator("#answer [data-reason=busy]").wait_for()
        assert len(ready.uploads) == 1, "what is there is not sent again"


def test_an_example_that_was_deleted_is_sent_again_too(visit: Open, ready: Page) -> None:
    visitor = visit(ready.base)
    visitor.page.locator(".card").first.click()
    visitor.answer()
    shutil.rmtree(next(ready.temporary.glob("ofa-page-*")))
    visitor.write("tell")
    visitor.page.click("#judge")
    card = json.loads((DEMO / "card.json").read_text(encoding="utf-8"))
    example = DEMO / card["examples"][0]["image"]
    assert sha_of_what_was_handed_over(visitor) == hashlib.sha256(example.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("locale", "told"),
    [("en-US", "The picture is no longer on the server"), ("zh-CN", "图片已不在服务器上")],
)
def test_a_picture_that_cannot_be_sent_again_is_asked_for(
    visit: Open, ready: Page, red_circle: Path, locale: str, told: str
) -> None:
    visitor = visit(ready.base, locale=locale)
    visitor.upload(red_circle)
    for path in ready.uploads:
        shutil.rmtree(path.parent)
    visitor.page.route("**/gradio_api/upload*", lambda route: route.fulfill(status=507, body="no room"))
    visitor.write("tell")
    visitor.page.click("#judge")
    expect(visitor.page.locator("#answer")).to_contain_text(told)


def test_a_file_far_too_large_is_refused_in_words(visit: Open, tmp_path: Path) -> None:
    """Before it is all there: the server closes the connection, and the browser shows what it said."""
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(200_000_000)
    with serving(tmp_path, "--max-bytes", "100000") as page:
        visitor = visit(page.base)
        visitor.page.set_input_files("#picture input[type=file]", large)
        expect(visitor.page.locator("body")).to_contain_text("Make the picture smaller")
        assert page.uploads == []


@pytest.mark.parametrize(
    ("locale", "told"), [("en-US", "The answer appears here"), ("zh-CN", "回答会显示在这里")]
)
def test_no_verdict_stands_beside_a_question_that_nobody_takes(
    visit: Open, tmp_path: Path, red_circle: Path, locale: str, told: str
) -> None:
    with serving(tmp_path) as page:
        visitor = visit(page.base, locale=locale)
        visitor.upload(red_circle)
        visitor.write("there is a circle")
        visitor.judge()
        page.process.kill()
    visitor.write("there is a star")
    visitor.page.click("#judge")
    expect(visitor.page.locator("#answer .bars")).to_have_count(0)
    expect(visitor.page.locator("#answer")).to_contain_text(told)


# ---- while an answer is awaited --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("locale", "told", "yes"),
    [
        ("en-US", ["Handlers …", "3 requests are ahead of yours", "about 15 s"], "Yes"),
        ("zh-CN", ["正在判断……", "前面还有 3 个请求", "大约 15 秒"], "是"),
    ],
)
def test_who_waits_is_told_how_long_and_then_the_answer(
    visit: Open, ready: Page, red_circle: Path, locale: str, told: list[str], yes: str
) -> None:
    visitor, other = visit(ready.base, locale=locale), visit(ready.base)
    visitor.upload(red_circle)
    visitor.write("hold 3 600")  # no more than the time limit is told, and that is 15 s
    visitor.page.click("#judge")
    card = visitor.page.locator("#answer .answer-pending[role=status]")
    for words in told:
        expect(card).to_contain_text(words)
    other.upload(red_circle)
    other.write("release")
    other.judge()
    assert visitor.answer().startswith(yes)
    expect(card).to_have_count(0)
    assert visitor.errors == []


def test_what_takes_longer_than_was_told_is_said_to(visit: Open, ready: Page, red_circle: Path) -> None:
    visitor = visit(ready.base)
    visitor.upload(red_circle)
    visitor.write("hold 0 0.5")
    visitor.page.click("#judge")
    card = visitor.page.locator("#answer .answer-pending")
    expect(card).to_contain_text("It takes longer than expected. Within 15 seconds of asking")


@pytest.mark.parametrize(
    ("locale", "told"),
    [("en-US", "3 requests are waiting · an answer takes about 6 s"), ("zh-CN", "大约 6 秒后得到回答")],
)
def test_a_queue_is_told_before_anybody_asks(
    visit: Open, ready: Page, red_circle: Path, locale: str, told: str
) -> None:
    visitor = visit(ready.base, locale=locale)
    visitor.upload(red_circle)
    visitor.write("state queue")
    visitor.judge()
    look_again(visitor)
    expect(visitor.page.locator("#state .state-queue")).to_contain_text(told)
    visitor.write("state ready")
    visitor.page.click("#judge")
    expect(visitor.page.locator("#state .state-queue")).to_have_count(0)
