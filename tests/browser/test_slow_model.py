"""A real service whose model is slow, in a real browser: what a person is told until the answer is there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.instances.instance import Instance
from tests.browser.conftest import Visit

Open = Callable[..., Visit]
SECONDS = 3.0  # what each computation takes more, so that the card is there for long enough to be seen

# Everything that the answer's place says from now on, as it comes.
LISTEN = """() => {
  window.said = [];
  const answer = document.getElementById('answer');
  const listen = new MutationObserver(() => window.said.push(answer.innerText));
  listen.observe(answer, {childList: true, subtree: true});
}"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("slow")
    (folder / "worse.json").write_text(json.dumps({"judge": SECONDS}))
    flags = ("--model", "demo", "--timeout", "120", "--probe-timeout", "120")
    with Instance(folder, "web_app.py", *flags, program="tests/doctor/launcher.py") as instance:
        instance.wait_healthy()  # by a probe, from which it knows how long a computation takes
        yield instance


@pytest.mark.parametrize(
    ("locale", "told", "yes"),
    [("en-US", r"about (\d+) (s|min)", "Yes"), ("zh-CN", r"大约 (\d+) (秒|分钟)", "是")],
)
def test_a_person_is_told_about_how_long_it_takes_and_then_the_answer(
    visit: Open, slow: Instance, red_circle: Path, locale: str, told: str, yes: str
) -> None:
    visitor = visit(slow.page, locale=locale)
    visitor.upload(red_circle)
    visitor.write("there is a red circle")
    visitor.page.evaluate(LISTEN)
    assert visitor.judge().startswith(yes)
    said = [text for text in visitor.page.evaluate("window.said") if re.search(told, text)]
    assert said
    found = re.search(told, said[0])
    assert found is not None
    assert int(found[1]) >= 1 if found[2] in ("min", "分钟") else int(found[1]) >= SECONDS
    assert visitor.errors == []
