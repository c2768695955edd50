"""The ask tab and the login with axe, by keyboard alone, on a phone, and as a screen reader sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from page.words import Language, say
from tests.browser.conftest import Visit
from tests.web import client
from tests.web.client import serving

Open = Callable[..., Visit]

GRAVE = ("serious", "critical")
LOOKS = [("en-US", "light", 1280), ("en-US", "dark", 390), ("zh-CN", "light", 390), ("zh-CN", "dark", 1280)]
ROW = "#answer li.answer"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[client.Page]:
    with serving(tmp_path_factory.mktemp("ready"), "--model", "owner/name") as page:
        yield page


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[client.Page]:
    folder = tmp_path_factory.mktemp("locked")
    (folder / "password").write_text("open sesame")
    with serving(folder, "--page-password-file", str(folder / "password")) as page:
        yield page


def findings(page: Page) -> list[str]:
    """Return the serious and critical findings of axe, with the elements they are about."""
    # An opacity that is animated would be measured at any moment.
    page.add_style_tag(
        content="*, ::before, ::after { animation: none !important; transition: none !important; }"
    )
    violations = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:300]}"
        for one in violations
        if one["impact"] in GRAVE
        for node in one["nodes"]
    ]


@pytest.mark.parametrize(("locale", "scheme", "width"), LOOKS)
def test_axe_finds_nothing_serious_on_the_ask_tab(
    visit: Open, ready: client.Page, red_circle: Path, locale: str, scheme: str, width: int
) -> None:
    visitor = visit(ready.base, locale=locale, scheme=scheme, width=width, height=844)
    page = visitor.page
    assert findings(page) == [], "empty"
    visitor.judge()
    assert findings(page) == [], "with an error"
    visitor.upload(red_circle)
    for sentence in ("one", "reason busy", "two"):
        visitor.write(sentence)
        visitor.judge()
    before = visitor.questions()
    page.locator(".card").first.click()
    visitor.answer(before)
    page.locator("#answer .group").nth(1).locator("[data-do=toggle]").click()
    assert findings(page) == [], "with rows"
    page.locator(ROW).first.press("Enter")
    page.locator(f"{ROW} textarea").wait_for()
    assert findings(page) == [], "with an edited row"


@pytest.mark.parametrize(("locale", "scheme", "width"), LOOKS)
def test_axe_finds_nothing_serious_on_the_login(
    browser: Browser, locked: client.Page, locale: str, scheme: str, width: int
) -> None:
    context = browser.new_context(
        locale=locale,
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": 844},
    )
    page = context.new_page()
    page.goto(locked.base)
    assert findings(page) == [], "empty"
    page.fill("input", "wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).not_to_be_empty()
    assert findings(page) == [], "with an error"
    context.close()


def press_until(page: Page, selector: str, key: str = "Tab") -> None:
    """Press the key until the focus is in the selected element."""
    for _ in range(60):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.closest(selector) !== null", selector):
            return
    raise AssertionError(f"{key} does not reach {selector}")


@pytest.mark.parametrize(("locale", "language"), [("en-US", "en"), ("zh-CN", "zh")])
def test_a_phone_with_a_keyboard_alone(
    visit: Open, ready: client.Page, red_circle: Path, locale: str, language: Language
) -> None:
    """Choose a picture, ask twice, edit, delete, clear."""
    visitor = visit(ready.base, locale=locale, width=390, height=844)
    page = visitor.page

    def narrow() -> bool:
        return int(page.evaluate("document.documentElement.scrollWidth")) <= 390

    assert narrow()
    page.on("filechooser", lambda chooser: chooser.set_files(red_circle))
    press_until(page, "#picture button")
    page.keyboard.press("Enter")
    page.locator("#picture img").wait_for()
    press_until(page, "#hypothesis")
    for sentence in ("one", "two"):  # what was asked is selected, so that typing replaces it
        before = visitor.questions()
        page.keyboard.type(sentence)
        page.keyboard.press("Enter")
        visitor.answer(before)
        expect(page.locator("#answer [role=status]")).to_have_text(
            f"{sentence}: {say(language, 'label.Yes')}, 90.0%"
        )
    assert narrow()
    expect(page.locator(ROW).first).to_be_in_viewport(ratio=1)
    press_until(page, ROW)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("F2")
    before = visitor.questions()
    page.keyboard.type("three")
    assert narrow()
    page.keyboard.press("Enter")
    visitor.answer(before)
    assert page.locator(f"{ROW} .answer-sentence").all_text_contents() == ["three", "two", "one"]
    page.keyboard.press("Delete")
    expect(page.locator(ROW).first).to_be_focused()
    press_until(page, "[data-do=clear]", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator(ROW)).to_have_count(0)
    expect(page.locator("#hypothesis textarea")).to_be_focused()
    assert narrow()


def test_a_screen_reader_sees_a_list_of_answers_for_each_picture(
    visit: Open, ready: client.Page, red_circle: Path
) -> None:
    visitor = visit(ready.base)
    visitor.upload(red_circle)
    for sentence in ("one", "reason busy"):
        visitor.write(sentence)
        visitor.judge()
    group = visitor.page.get_by_role("list", name="red-circle.png")
    rows = group.get_by_role("listitem").filter(has=visitor.page.get_by_role("button"))
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text(say("en", "label.Yes"))
    expect(
        rows.nth(1).get_by_role("list", name=say("en", "probabilities")).get_by_role("listitem")
    ).to_have_count(3)
    for name in ("edit", "json", "curl", "delete"):
        expect(rows.nth(1).get_by_role("button", name=say("en", f"rows.{name}"), exact=True)).to_have_count(1)
    toggle = visitor.page.get_by_role("heading", level=3).get_by_role("button", expanded=True)
    toggle.press("Enter")
    expect(group).to_have_count(0)
    status = visitor.page.get_by_role("status").filter(has_text="reason busy")
    expect(status).to_have_attribute("aria-live", "polite")
