"""The history in the browser: it survives reloads and restarts, has limits, and is cleared by one click."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Error, Page, expect

from page.words import say
from tests.browser.conftest import Visit, wait_until
from tests.web import client
from tests.web.client import serving

Open = Callable[..., Visit]

ROW = "#answer li.answer"
#: Returns the history's groups and rows, read from IndexedDB.
READ = """() => new Promise((done) => {
  const opening = indexedDB.open('ofa-questions');
  opening.onsuccess = async () => {
    const reading = opening.result.transaction(['groups', 'rows']);
    const all = (name) => new Promise((got) => {
      const asked = reading.objectStore(name).getAll();
      asked.onsuccess = () => got(asked.result);
    });
    const [groups, rows] = await Promise.all([all('groups'), all('rows')]);
    opening.result.close();
    done({groups: groups.map(({picture, ...group}) => ({...group, bytes: picture?.size ?? null})), rows});
  };
})"""
#: Adds groups with one row each to the history.
FILL = """([count, bytes]) => new Promise((done) => {
  const opening = indexedDB.open('ofa-questions');
  opening.onsuccess = () => {
    const writing = opening.result.transaction(['groups', 'rows'], 'readwrite');
    for (let at = 1; at <= count; at++) {
      const picture = new Blob([new Uint8Array(bytes)], {type: 'image/png'});
      writing.objectStore('groups').put({id: `g${at}`, name: 'old.png', picture});
      const row = {text: `old ${at}`, premise: null, answer: null, at};
      writing.objectStore('rows').put({...row, id: `r${at}`, group: `g${at}`});
    }
    writing.oncomplete = () => { opening.result.close(); done(); };
  };
})"""
HOSTILE = [
    "<img src=x onerror=\"document.body.dataset.hacked='yes'\">",
    "<script>document.body.dataset.hacked='yes'</script>",
    "${document.body.dataset.hacked='yes'} {{constructor}} javascript:alert(1)",
    "\u202eright to left\u202c مرحبا بالعالم",
    "👩‍👩‍👧‍👦 😀 \u0301\u0301 &lt;b&gt; &amp;",
    "word" * 250,
]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[client.Page]:
    with serving(tmp_path_factory.mktemp("ready"), "--model", "owner/name") as page:
        yield page


def stored(page: Page) -> dict[str, list[dict[str, object]]]:
    read: dict[str, list[dict[str, object]]] = page.evaluate(READ)
    return read


def wait_for_rows(page: Page, *texts: str) -> None:
    """Wait until exactly these sentences are stored with their answers, oldest first."""

    def holds(history: dict[str, list[dict[str, Any]]]) -> bool:
        rows = sorted(history["rows"], key=lambda row: row["at"])
        return [row["answer"] and row["text"] for row in rows] == list(texts)

    wait_until(page, READ, holds)


def reload(visitor: Visit) -> None:
    try:
        visitor.page.reload()
    except Error as error:  # Gradio reloads the page when its server is back, which aborts ours
        if "ERR_ABORTED" not in error.message:
            raise
    visitor.page.locator("#judge").wait_for()
    expect(visitor.page.locator("#answer .rows-note")).not_to_be_empty()


def shown(page: Page) -> list[str]:
    return page.locator(f"{ROW} .answer-sentence").all_text_contents()


def told(visitor: Visit) -> dict[str, object]:
    """Ask "tell" and return what the application was called with."""
    visitor.write("tell")
    visitor.judge()
    handed: dict[str, object] = json.loads(visitor.page.locator(ROW).first.get_attribute("data-reason") or "")
    return handed


def test_the_history_survives_a_restart_and_its_picture_can_be_asked_about(
    visit: Open, tmp_path: Path, red_circle: Path
) -> None:
    with serving(tmp_path) as server:
        port = int(server.base.rpartition(":")[2])
        visitor = visit(server.base)
        visitor.upload(red_circle)
        for sentence in ("one", "reason busy"):
            visitor.write(sentence)
            visitor.judge()
        wait_for_rows(visitor.page, "one", "reason busy")
    with serving(tmp_path, port=port) as server:
        reload(visitor)
        assert shown(visitor.page) == ["reason busy", "one"]
        expect(visitor.page.locator(ROW).nth(1).locator(".bar-value")).to_have_text(["90.0%", "6.0%", "4.0%"])
        expect(visitor.page.locator("#answer .group img")).to_have_js_property("naturalWidth", 480)
        assert server.uploads == []
        visitor.page.locator("#answer [data-do=use]").click()
        visitor.page.locator("#picture img").wait_for()
        sha = told(visitor)["sha"]
        assert shown(visitor.page) == ["tell", "reason busy", "one"]
        assert sha == hashlib.sha256(red_circle.read_bytes()).hexdigest()
        assert len(server.uploads) == 1


def test_a_row_of_the_history_can_be_asked_again_after_a_reload(
    visit: Open, ready: client.Page, red_circle: Path
) -> None:
    visitor = visit(ready.base)
    visitor.upload(red_circle)
    visitor.write("reason busy")
    visitor.judge()
    wait_for_rows(visitor.page, "reason busy")
    reload(visitor)
    before = visitor.questions()
    visitor.page.locator(f"{ROW} [data-do=edit]").click()
    visitor.page.locator(f"{ROW} textarea").fill("two")
    visitor.page.locator(f"{ROW} [type=submit]").click()
    visitor.answer(before)
    wait_for_rows(visitor.page, "two")
    assert shown(visitor.page) == ["two"]


def test_a_question_without_an_answer_is_kept_and_can_be_tried_again(
    visit: Open, tmp_path: Path, red_circle: Path
) -> None:
    with serving(tmp_path) as server:
        port = int(server.base.rpartition(":")[2])
        visitor = visit(server.base)
        visitor.upload(red_circle)
        visitor.write("hold")
        visitor.page.click("#judge")
        wait_until(visitor.page, READ, lambda history: len(history["rows"]) == 1)
        server.process.kill()
    with serving(tmp_path, port=port):
        reload(visitor)
        expect(visitor.page.locator(ROW)).to_have_attribute("data-reason", "unanswered")
        visitor.page.locator(f"{ROW} [data-do=edit]").click()
        visitor.page.locator(f"{ROW} textarea").fill("one")
        visitor.page.keyboard.press("Enter")
        expect(visitor.page.locator("#answer .answer-yes")).to_have_count(1)
        expect(visitor.page.locator(ROW)).to_have_count(1)


def test_a_large_picture_is_kept_smaller(visit: Open, ready: client.Page, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, 2560, 3), np.uint8)
    large = tmp_path / "large.png"
    Image.fromarray(noise).save(large)
    visitor = visit(ready.base)
    visitor.upload(large)
    visitor.write("one")
    visitor.judge()
    wait_for_rows(visitor.page, "one")
    [group] = stored(visitor.page)["groups"]
    assert group["bytes"] != large.stat().st_size
    # A page that still has the file asks about the file; after a reload, about what the history kept.
    assert told(visitor)["sha"] == hashlib.sha256(large.read_bytes()).hexdigest()
    reload(visitor)
    visitor.page.locator("#answer [data-do=use]").click()
    visitor.page.locator("#picture img").wait_for()
    with Image.open(str(told(visitor)["path"])) as picture:
        assert picture.size == (1280, 500)


def test_the_history_is_cleared_by_one_click_in_every_tab(
    visit: Open, ready: client.Page, red_circle: Path
) -> None:
    visitor = visit(ready.base)
    visitor.upload(red_circle)
    visitor.write("one")
    visitor.judge()
    wait_for_rows(visitor.page, "one")
    other = Visit(visitor.context, ready.base).open()
    expect(other.page.locator(ROW)).to_have_count(1)
    visitor.page.click("#answer [data-do=clear]")
    for tab in (visitor, other):
        expect(tab.page.locator("#answer .answer-empty")).to_have_count(1)
        expect(tab.page.locator(ROW)).to_have_count(0)
    wait_for_rows(visitor.page)
    assert stored(visitor.page) == {"groups": [], "rows": []}
    reload(visitor)
    expect(visitor.page.locator(ROW)).to_have_count(0)


@pytest.mark.parametrize(
    "script",
    [
        "Object.defineProperty(window, 'indexedDB', {value: undefined})",
        "IDBFactory.prototype.open = () => { throw new DOMException('not here', 'SecurityError'); }",
    ],
    ids=["none", "refused"],
)
def test_without_storage_the_page_works_and_says_that_nothing_is_kept(
    visit: Open, ready: client.Page, red_circle: Path, script: str
) -> None:
    visitor = visit(ready.base, script=script)
    expect(visitor.page.locator("#answer .rows-note")).to_have_text(say("en", "rows.off"))
    visitor.upload(red_circle)
    for sentence in ("one", "two"):
        visitor.write(sentence)
        visitor.judge()
    visitor.page.locator(ROW).first.press("Delete")
    assert shown(visitor.page) == ["one"]
    visitor.page.click("#answer [data-do=clear]")
    expect(visitor.page.locator(ROW)).to_have_count(0)
    assert visitor.errors == []


def test_a_full_storage_is_said_and_the_answers_stay_shown(
    visit: Open, ready: client.Page, red_circle: Path
) -> None:
    full = "IDBObjectStore.prototype.put = () => { throw new DOMException('full', 'QuotaExceededError'); }"
    visitor = visit(ready.base, script=full)
    visitor.upload(red_circle)
    visitor.write("one")
    assert visitor.judge().startswith("Yes")
    expect(visitor.page.locator("#answer .rows-note")).to_have_text(say("en", "rows.unstored"))
    assert visitor.errors == []


@pytest.mark.parametrize(
    ("pictures", "size", "kept"), [(60, 10, 40), pytest.param(24, 2 << 20, 16, marks=pytest.mark.long)]
)
def test_the_oldest_pictures_leave_a_full_history(
    visit: Open, ready: client.Page, red_circle: Path, pictures: int, size: int, kept: int
) -> None:
    visitor = visit(ready.base)
    visitor.page.evaluate(FILL, [pictures, size])
    reload(visitor)
    expect(visitor.page.locator(ROW)).to_have_count(pictures)
    visitor.upload(red_circle)
    visitor.write("new")
    visitor.judge()
    oldest_first = [f"old {at}" for at in range(pictures - kept + 2, pictures + 1)]
    history = wait_until(visitor.page, READ, lambda history: len(history["groups"]) == kept)
    assert sorted(str(row["text"]) for row in history["rows"]) == sorted([*oldest_first, "new"])
    expect(visitor.page.locator(ROW)).to_have_count(kept)


@pytest.mark.long
def test_the_oldest_rows_leave_a_full_history(visit: Open, ready: client.Page, red_circle: Path) -> None:
    one_picture = FILL.replace("group: `g${at}`", "group: 'g1'")
    visitor = visit(ready.base)
    visitor.page.evaluate(one_picture, [450, 10])
    reload(visitor)
    expect(visitor.page.locator(ROW)).to_have_count(450)
    visitor.upload(red_circle)
    visitor.write("new")
    visitor.judge()
    wait_until(visitor.page, READ, lambda history: len(history["rows"]) == 400)
    expect(visitor.page.locator(ROW)).to_have_count(400)
    assert "old 51" not in shown(visitor.page)
    assert "old 52" in shown(visitor.page)


@pytest.mark.parametrize("width", [390, 1280])
def test_hostile_sentences_are_shown_as_they_are_before_and_after_a_reload(
    visit: Open, ready: client.Page, red_circle: Path, width: int
) -> None:
    visitor = visit(ready.base, width=width)
    page = visitor.page
    visitor.upload(red_circle)
    page.click("#premise-box button")
    for sentence in HOSTILE:
        page.fill("#premise textarea", sentence)
        visitor.write(sentence)
        visitor.judge()
    for _ in range(2):
        assert shown(page) == HOSTILE[::-1]
        assert page.locator(f"{ROW} .answer-premise bdi").all_text_contents() == HOSTILE[::-1]
        assert page.locator(f"{ROW} :is(img, script, a)").count() == 0
        assert page.get_attribute("body", "data-hacked") is None
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        wait_for_rows(page, *HOSTILE)
        reload(visitor)
    assert visitor.errors == []
