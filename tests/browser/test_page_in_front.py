"""A page in front of an engine, in a browser: verdicts and errors in two languages, and an engine that is
gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from lab.instances.instance import ROOT, Instance
from lab.instances.ports import free_ports
from page.words import Language, say
from tests.browser.conftest import Visit

Open = Callable[..., Visit]
EXISTENCE = ROOT / "models" / "demo" / "examples" / "existence.png"
LANGUAGES = [("en-US", "en"), ("zh-CN", "zh")]


@pytest.fixture(scope="module")
def front(running_service: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("front")
    with Instance(folder, "--engine", running_service.page, "--timeout", "60", "--ops", "off") as page:
        page.wait_healthy()
        yield page


@pytest.mark.parametrize(("locale", "language"), LANGUAGES)
def test_a_question_gets_the_engines_verdict(
    visit: Open, front: Instance, locale: str, language: Language
) -> None:
    visitor = visit(front.page, locale=locale)
    expect(visitor.page.locator("#state .state-ready")).to_contain_text("demo · CPU")
    expect(visitor.page.locator("#batch")).to_have_count(0)
    visitor.upload(EXISTENCE)
    visitor.write("there is a red circle")
    assert visitor.judge().startswith(say(language, "label.Yes"))
    visitor.write("there is a blue square")
    assert visitor.judge().startswith(say(language, "label.No"))
    assert visitor.errors == []


@pytest.mark.parametrize(("locale", "language"), LANGUAGES)
def test_what_the_engine_cannot_judge_has_the_pages_own_text(
    visit: Open, front: Instance, locale: str, language: Language, tmp_path: Path
) -> None:
    visitor = visit(front.page, locale=locale)
    visitor.upload(EXISTENCE)
    visitor.write("这张图片里有一个红色的圆形")  # the engine alone knows its model's language
    assert say(language, "input.language") in visitor.judge()


def test_the_status_line_says_that_the_engine_is_gone(visit: Open, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    with Instance(tmp_path, "--engine", nobody, "--ops", "off") as page:
        page.wait_for("its page", lambda: "SERVER=page" in page.log and "ENGINE_UNUSABLE" in page.log)
        visitor = visit(page.page, locale="zh-CN")
        expect(visitor.page.locator("#state .state-no_instance")).to_contain_text(
            say("zh", "state.no_instance")
        )
        visitor.upload(EXISTENCE)
        visitor.write("there is a red circle")
        assert say("zh", "none.no_instance") in visitor.judge()
