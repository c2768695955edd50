"""The operations tab in a real browser: login, both languages, polling."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from lab.instances.instance import Instance
from page.words import STATIC, say
from tests.browser.conftest import PATIENCE, Visit
from tests.web.client import Page, serving

Open = Callable[..., Visit]
PASSWORD = "open sesame"
PARTS = ("buttons", "facts", "plots", "findings", "restarts", "changes", "requests")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("locked")
    with serving(folder, "--host", "0.0.0.0", environment={"OFA_OPS_PASSWORD": PASSWORD}) as page:
        yield page


@pytest.fixture(autouse=True)
def patience() -> None:
    expect.set_options(timeout=PATIENCE)


def enter(visitor: Visit, tab: str, password: str = PASSWORD) -> None:
    """Open the tab and submit a password."""
    visitor.page.get_by_role("tab", name=tab).click()
    visitor.page.fill("#ops input[name=password]", password)
    visitor.page.keyboard.press("Enter")


def part(visitor: Visit, name: str) -> str:
    """Wait for a part of the tab and return its text."""
    place = visitor.page.locator(f'#ops [data-part="{name}"] > *').first
    place.wait_for()
    return visitor.page.locator(f'#ops [data-part="{name}"]').inner_text()


def test_the_tab_opens_only_with_the_password(visit: Open, locked: Page) -> None:
    visitor = visit(locked.base)
    enter(visitor, STATIC["en"]["tab_ops"], "not the one")
    expect(visitor.page.locator("#ops [data-message]")).to_have_text(say("en", "ops.login.wrong"))
    assert visitor.page.locator("#ops .ops-facts").count() == 0
    visitor.page.fill("#ops input[name=password]", PASSWORD)
    visitor.page.keyboard.press("Enter")
    assert "healthy" in part(visitor, "facts")
    assert "req_1_ab" in part(visitor, "requests")
    restarts = part(visitor, "restarts")
    assert say("en", "ops.restart.hung") in restarts
    assert "9 s: <b>answer</b>" in restarts, "as text"
    expect(visitor.page.locator("#ops .finding").first).to_contain_text("a <b>line</b>")
    assert visitor.page.locator("#ops .plots svg").count() == 6
    assert PASSWORD not in visitor.page.url

    expect(visitor.page.get_by_role("button", name=say("en", "ops.cache.button"))).to_be_disabled()
    visitor.page.get_by_role("button", name=say("en", "ops.probe.button")).click()
    expect(visitor.page.locator("#ops .ops-message")).to_have_text(say("en", "ops.probe.done"))
    visitor.page.get_by_role("button", name=say("en", "ops.logout.button")).click()
    visitor.page.locator("#ops input[name=password]").wait_for()
    assert visitor.page.locator("#ops .ops-facts").count() == 0


def test_a_session_survives_a_reload_and_belongs_to_one_browser(visit: Open, locked: Page) -> None:
    visitor, other = visit(locked.base), visit(locked.base)
    enter(visitor, STATIC["en"]["tab_ops"])
    part(visitor, "facts")
    visitor.page.reload()
    visitor.page.get_by_role("tab", name=STATIC["en"]["tab_ops"]).click()
    part(visitor, "facts")
    assert visitor.page.evaluate("document.cookie") == "", "the cookie is HttpOnly"
    other.page.get_by_role("tab", name=STATIC["en"]["tab_ops"]).click()
    other.page.locator("#ops input[name=password]").wait_for()
    assert other.page.locator("#ops .ops-facts").count() == 0


def test_the_tab_is_translated_and_fits_a_small_screen(visit: Open, locked: Page) -> None:
    visitor = visit(locked.base, locale="zh-CN", width=320)
    enter(visitor, STATIC["zh"]["tab_ops"])
    texts = {name: part(visitor, name) for name in PARTS if name != "findings"}
    expect(visitor.page.locator("#ops .ops-findings h2")).to_have_text(say("zh", "ops.findings"))
    expect(visitor.page.locator("#ops .finding").first).to_contain_text("同样的问题比以前慢")
    assert [name for name, text in texts.items() if not re.search(r"[\u4e00-\u9fff]", text)] == []
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 320
    lines = visitor.page.locator("#ops .finding pre").first
    assert lines.evaluate("pre => pre.scrollWidth <= pre.clientWidth"), "evidence wraps"
    visitor.page.get_by_role("button", name=say("zh", "ops.probe.button")).click()
    expect(visitor.page.locator("#ops .ops-message")).to_have_text(say("zh", "ops.probe.done"))


def test_the_tab_opens_with_the_generated_password_and_polls(
    visit: Open, running_service: Instance, red_circle: Path
) -> None:
    visitor = visit(running_service.page)
    visitor.upload(red_circle)
    visitor.write("there is a xylophonist")
    visitor.judge()
    enter(visitor, STATIC["en"]["tab_ops"], running_service.ops_password)
    assert "demo" not in part(visitor, "requests")
    row = visitor.page.locator("#ops [data-part=requests] tr", has_text="page").first
    expect(row).to_contain_text("480×360")
    visitor.page.get_by_role("tab", name=STATIC["en"]["tab_ask"]).click()
    expect(visitor.page.locator("#hypothesis textarea")).to_have_value("there is a xylophonist")
    expect(visitor.page.locator("#answer .bars")).to_be_visible()
    visitor.page.get_by_role("tab", name=STATIC["en"]["tab_ops"]).click()
    expect(visitor.page.locator("#ops [data-part=facts]")).to_contain_text("healthy")
    assert "xylophonist" not in visitor.page.inner_text("#ops")
    assert visitor.hosts == {urlsplit(running_service.page).netloc}
    assert [error for error in visitor.errors if "401" not in error] == [], "before the password"
