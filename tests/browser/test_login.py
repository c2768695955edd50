"""The login of the page in a real browser, in both languages, over a scripted application."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from page.words import Language, say
from tests.browser.conftest import LOCALES, PATIENCE
from tests.web.client import Page, serving

PASSWORD = "open sesame"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("locked")
    (folder / "password").write_text(PASSWORD)
    with serving(folder, "--page-password-file", str(folder / "password")) as page:
        yield page


@pytest.fixture
def context(browser: Browser, locale: str) -> Iterator[BrowserContext]:
    expect.set_options(timeout=PATIENCE)
    context = browser.new_context(locale=locale)
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.mark.parametrize(("locale", "language"), LOCALES)
def test_the_password_leads_to_the_page_and_the_end_of_the_session_back(
    locked: Page, context: BrowserContext, language: Language, red_circle: Path
) -> None:
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on(
        "console", lambda line: failures.append(line.text) if "Content Security Policy" in line.text else None
    )
    page.goto(locked.base)
    assert urlsplit(page.url).path == "/login"
    expect(page.locator("p").first).to_have_text(say(language, "login.text"))

    page.keyboard.type("not the one")  # the field has the focus
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text(say(language, "ops.login.wrong"))
    page.fill("input", PASSWORD)
    page.get_by_role("button").click()

    page.locator("#judge").wait_for()
    assert urlsplit(page.url).path == "/"
    page.set_input_files("#picture input[type=file]", red_circle)
    page.locator("#picture img").wait_for()
    page.fill("#hypothesis textarea", "a red circle")
    page.click("#judge")
    page.locator("#answer .answer-yes").wait_for()
    expect(page.locator("#answer [data-do=json]")).to_have_count(1)
    expect(page.locator("#answer [data-do=curl]")).to_have_count(0)  # a command cannot log in
    (cookie,) = (one for one in context.cookies() if one["name"].startswith("ofa_page_"))
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")

    page.get_by_role("button", name=say(language, "ops.logout.button")).click()
    page.wait_for_url("**/login")
    assert not [one for one in context.cookies() if one["name"].startswith("ofa_page_")]

    page.fill("input", PASSWORD)
    page.keyboard.press("Enter")
    page.locator("#state .state").wait_for()
    context.clear_cookies()  # as when the session has expired
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_url("**/login")
    assert failures == []
