"""A real service with a slow model in a real browser: the estimated wait, then the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.instances.instance import Instance
from page.words import Language, say
from tests.browser.conftest import LOCALES, Visit

Open = Callable[..., Visit]
SECONDS = 3.0  # added to each computation, so that the pending card is visible

# Records every text of the answer from now on.
LISTEN = """() => {
  window.texts = [];
  const answer = document.getElementById('answer');
  const listen = new MutationObserver(() => window.texts.push(answer.innerText));
  listen.observe(answer, {childList: true, subtree: true});
}"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("slow")
    (folder / "worse.json").write_text(json.dumps({"judge": SECONDS}))
    flags = ("--model", "demo", "--timeout", "120", "--probe-timeout", "120")
    with Instance(folder, "web_app.py", *flags, program="tests/doctor/launcher.py") as instance:
        instance.wait_healthy()  # by a probe, which gives the first estimate
        yield instance


@pytest.mark.parametrize(("locale", "language"), LOCALES)
def test_the_estimated_wait_is_shown_before_the_answer(
    visit: Open, slow: Instance, red_circle: Path, locale: str, language: Language
) -> None:
    visitor = visit(slow.page, locale=locale)
    visitor.upload(red_circle)
    visitor.write("there is a red circle")
    visitor.page.evaluate(LISTEN)
    assert visitor.judge().startswith(say(language, "label.Yes"))
    in_seconds, in_minutes = (
        [int(count) for text in visitor.page.evaluate("window.texts") for count in re.findall(pattern, text)]
        for pattern in (
            say(language, "about.seconds", s=r"(\d+)"),
            say(language, "about.minutes", m=r"(\d+)"),
        )
    )
    assert in_seconds or in_minutes
    assert all(count >= SECONDS for count in in_seconds)
    assert visitor.errors == []
