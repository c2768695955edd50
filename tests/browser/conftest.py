"""A real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.service_process import running_service

__all__ = ["running_service"]

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # A fake camera, without a permission prompt.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
#: The page's texts are Chinese in other tests too; these repeat a behaviour.
LOCALES = [("en-US", "en"), pytest.param("zh-CN", "zh", marks=pytest.mark.long)]
QUESTION = "#answer [data-question]"
PATIENCE = 240_000.0  # milliseconds; a bound for a broken run on a busy machine, never a measurement
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Per module: while Playwright runs, no other test can run an event loop."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "Chromium is not installed: tests/system_packages.sh chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS, timeout=PATIENCE)
        yield browser
        browser.close()


def wait_until(page: Page, expression: str, holds: Callable[[Any], bool]) -> Any:
    """Evaluate ``expression``, awaiting a promise, until its value ``holds``; return that value.

    Playwright's wait_for_function takes a promise itself for a true value.
    """
    give_up = time.monotonic() + PATIENCE / 1000
    while not holds(value := page.evaluate(expression)):
        assert time.monotonic() < give_up, value
        page.wait_for_timeout(50)
    return value


class Visit:
    """A browser tab; ``errors`` collects its exceptions and console errors."""

    def __init__(self, context: BrowserContext, base: str) -> None:
        self.context = context
        self.base = base
        self.page: Page = context.new_page()
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        self.page.on("request", lambda request: self._requested(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)

    def _requested(self, url: str) -> None:
        if urlsplit(url).scheme not in ("data", "blob"):
            self.hosts.add(urlsplit(url).netloc)

    def open(self) -> Visit:
        self.page.goto(self.base)
        self.page.locator("#judge").wait_for()
        self.page.locator("#state .state").wait_for()
        return self

    def upload(self, picture: Path) -> None:
        self.page.set_input_files("#picture input[type=file]", picture)
        self.page.locator("#picture img").wait_for()

    def write(self, sentence: str) -> None:
        self.page.fill("#hypothesis textarea", sentence)

    def judge(self) -> str:
        """Press the button and return the answer's text."""
        before = self.questions()
        self.page.click("#judge")
        return self.answer(before)

    def questions(self) -> list[str]:
        """Return the ids of the questions shown, newest first."""
        return self.page.locator(QUESTION).evaluate_all("all => all.map(one => one.dataset.question)")

    def answer(self, before: Sequence[str] = ()) -> str:
        """Wait for the answer to a question other than those of ``before`` and return its text, without the
        question."""
        known = "".join(f":not([data-question='{one}'])" for one in before)
        answer = self.page.locator(f"{QUESTION}:not(.answer-pending){known}").first
        return answer.locator(".answer-body").inner_text()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens the page with the given locale and screen; ``script`` runs before it."""
    contexts: list[BrowserContext] = []

    def open_page(
        base: str,
        locale: str = "en-US",
        width: int = 1280,
        scheme: str = "light",
        height: int = 900,
        script: str = "",
    ) -> Visit:
        context = browser.new_context(
            locale=locale,
            viewport={"width": width, "height": height},
            color_scheme=scheme,  # type: ignore[arg-type]
            permissions=["camera", "clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(PATIENCE)
        context.add_init_script(script)
        contexts.append(context)
        return Visit(context, base).open()

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def red_circle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red circle on a light background."""
    path = tmp_path_factory.mktemp("pictures") / "red-circle.png"
    picture = Image.new("RGB", (480, 360), (246, 244, 238))
    ImageDraw.Draw(picture).ellipse((150, 90, 330, 270), fill=(220, 38, 38))
    picture.save(path)
    return path
