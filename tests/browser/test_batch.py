"""The batch tab in a real browser, over the real service and its store."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from lab.instances.instance import ROOT, Instance
from page.words import BATCH, STATIC, Language
from tests.browser.conftest import LOCALES, PATIENCE, Visit

Open = Callable[..., Visit]
EXAMPLES = ROOT / "models" / "demo" / "examples"
SCREENSHOT = ROOT / "docs" / "images" / "batch.png"
EN = BATCH["en"]
MARKUP = "<img src=x onerror=\"document.body.dataset.hacked='yes'\"> is a red circle"
ROWS = (
    ("existence.png", "there is a red circle"),
    ("existence.png", "there is a blue star"),
    ("colour.png", "the circle is yellow"),
    ("colour.png", "the star is on the right"),
    ("size.png", "the red square is small"),
    ("size.png", "there is a large red square"),
    ("place.png", "the cross is on the right"),
    ("place.png", "the triangle is at the top"),
    ("spot.png", "the star is in the centre"),
    ("negation.png", "there is no square"),
    ("none.png", "none of the squares is blue"),
    ("conjunction.png", "there is a blue circle and a red star"),
    ("maybe.png", "the circle is heavy"),
    ("missing.png", "there is a green cross"),
)
#: Drops a file of the given name and content, in base64.
DROP = """(element, [name, content]) => {
  const held = new DataTransfer();
  held.items.add(new File([Uint8Array.from(atob(content), (one) => one.charCodeAt(0))], name));
  for (const kind of ['dragenter', 'dragover', 'drop']) {
    element.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: held}));
  }
}"""


@pytest.fixture(autouse=True)
def patience() -> None:
    expect.set_options(timeout=PATIENCE)


def archive(rows: Sequence[tuple[str, str]], header: str = "id;image;text") -> bytes:
    """Return a zip with a CSV, delimited by semicolons, and the demo's pictures."""
    table = io.StringIO(newline="")
    writer = csv.writer(table, delimiter=";")
    writer.writerow(header.split(";"))
    writer.writerows((f"shop-{number}", *row) for number, row in enumerate(rows, 1))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        made.writestr("list.csv", table.getvalue())
        for name in {name for name, _ in rows}:
            if (EXAMPLES / name).exists():
                made.write(EXAMPLES / name, name)
    return content.getvalue()


def many(times: int) -> list[tuple[str, str]]:
    """Return all rows with a verdict, repeatedly, each with another text."""
    return [(picture, f"{text}, sentence {number}") for number in range(times) for picture, text in ROWS[:-1]]


class Tab:
    """The batch tab of a visit."""

    def __init__(self, visit: Visit, language: Language = "en", ready: str = ".batch-drop") -> None:
        self.visit = visit
        self.page: Page = visit.page
        self.word = BATCH[language]
        self.page.get_by_role("tab", name=STATIC[language]["tab_batch"], exact=True).click()
        self.page.locator(f"#batch {ready}").wait_for()

    def upload(self, content: bytes, name: str = "products.zip") -> None:
        self.page.set_input_files(
            ".batch-drop input", {"name": name, "mimeType": "application/zip", "buffer": content}
        )

    def wait(self, state: str) -> None:
        expect(self.page.locator(".batch-state")).to_have_text(self.word[f"state_{state}"])

    @property
    def ids(self) -> list[str]:
        """The ids that the browser has stored."""
        stored = self.page.evaluate("localStorage.getItem('ofa-batches')")
        return [batch["id"] for batch in json.loads(stored or "[]")]

    def results(self, form: str = "jsonl") -> str:
        answer = httpx.get(f"{self.visit.base}/v1/batches/{self.ids[0]}/results?format={form}", timeout=120)
        assert answer.status_code == 200
        return answer.text

    @property
    def judged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.results().splitlines()]

    @property
    def rows(self) -> Locator:
        return self.page.locator(".batch-table tbody tr")

    def shown(self) -> list[int]:
        """Return the lines of the rows in the table, in their order."""
        return [int(text) for text in self.rows.locator(".batch-line").all_text_contents()]

    def sort(self, key: str) -> str | None:
        head = self.page.locator(f"#batch [data-sort={key}]")
        head.get_by_role("button").click()
        return head.get_attribute("aria-sort")

    def choose(self, kind: str) -> None:
        self.page.locator(f"#batch [data-kind={kind}]").click()


@pytest.fixture
def tab(visit: Open, running_service: Instance) -> Tab:
    return Tab(visit(running_service.page))


def doubt(row: dict[str, Any]) -> float:
    first, second, _ = sorted(row["scores"].values(), reverse=True)
    return float(1 - (first - second))


def test_a_dropped_zip_is_judged_sorted_filtered_and_downloaded(tab: Tab) -> None:
    content = base64.b64encode(archive(ROWS)).decode()
    tab.page.locator(".batch-drop").evaluate(DROP, ["products.zip", content])
    tab.wait("done")
    expect(tab.rows).to_have_count(len(ROWS))
    judged = {row["line"]: row for row in tab.judged}
    assert tab.shown() == list(judged) == [number + 2 for number in range(len(ROWS))]
    answered = [line for line, row in judged.items() if row["label"]]
    (failed,) = judged.keys() - set(answered)
    assert judged[failed]["text"] == ROWS[-1][1]
    for row, (picture, sentence) in zip(tab.rows.all(), ROWS, strict=True):
        expect(row.locator(".batch-sentence")).to_contain_text(sentence)
        expect(row.locator(".batch-sentence small")).to_contain_text(picture)
    expect(tab.rows.last.locator(".batch-reason")).to_have_text(EN[f"row.{judged[failed]['code']}"])
    expect(tab.page.locator(".batch-facts")).to_contain_text(EN["failed_rows"].format(count=1))
    tab.page.wait_for_function(
        "shown => [...document.images].filter(one => one.closest('.batch-table') && one.naturalWidth)"
        ".length === shown",
        arg=len(answered),
    )
    if os.environ.get("SAVE_SCREENSHOT"):
        save_screenshot(tab)

    assert tab.sort("score") == "ascending"
    assert tab.shown() == [*sorted(answered, key=lambda line: judged[line]["score"]), failed]
    assert tab.sort("score") == "descending"
    assert tab.shown() == [*sorted(answered, key=lambda line: -judged[line]["score"]), failed]
    assert tab.sort("doubt") == "descending", "the doubtful rows come first"
    by_doubt = sorted(answered, key=lambda line: -doubt(judged[line]))
    assert tab.shown() == [*by_doubt, failed]
    assert tab.page.locator("#batch [data-sort=score]").get_attribute("aria-sort") == "none"
    tab.sort("label")
    order = ["Yes", "No", "Maybe"]
    assert tab.shown() == [*sorted(answered, key=lambda line: order.index(judged[line]["label"])), failed]
    tab.sort("line")

    for label in order:
        tab.choose(label)
        assert tab.shown() == [line for line in answered if judged[line]["label"] == label]
    tab.choose("errors")
    assert tab.shown() == [failed]
    tab.choose("all")
    percent = max(1, int(100 * doubt(judged[by_doubt[2]])))
    tab.page.locator(".batch-doubt input").fill(str(percent))
    assert tab.shown() == [line for line in answered if doubt(judged[line]) >= percent / 100]
    tab.page.locator(".batch-doubt input").fill("0")
    tab.page.fill(".batch-search input", "SQUARE")
    assert tab.shown() == [line for line, row in judged.items() if "square" in row["text"]]
    tab.page.fill(".batch-search input", "shop-12")
    assert tab.shown() == [13]

    for form in ("csv", "jsonl"):
        with tab.page.expect_download() as download:
            tab.page.locator(f"#batch [data-format={form}]").click()
        assert download.value.suggested_filename == f"results-{tab.ids[0][:8]}.{form}"
        assert download.value.path().read_bytes() == tab.results(form).encode()
    first = tab.results("csv").lstrip("\ufeff").splitlines()[0]
    assert first.startswith("id;image;text;label;")
    assert tab.visit.hosts == {urlsplit(tab.visit.base).netloc}
    assert tab.visit.errors == []


def save_screenshot(tab: Tab) -> None:
    tab.page.locator("#batch [data-sort=doubt]").get_by_role("button").click()
    tab.page.mouse.move(0, 0)
    tab.page.wait_for_timeout(1000)
    SCREENSHOT.write_bytes(tab.page.screenshot(full_page=True))
    tab.page.locator("#batch [data-sort=line]").get_by_role("button").click()


def test_markup_in_a_list_stays_text(tab: Tab) -> None:
    name = "<b>list</b>.zip"
    tab.upload(archive([("existence.png", MARKUP)]), name)
    tab.wait("done")
    expect(tab.rows.locator(".batch-sentence")).to_contain_text(MARKUP)
    expect(tab.page.locator(".batch-one h2")).to_have_text(name)
    assert tab.page.get_attribute("body", "data-hacked") is None
    assert tab.page.locator(".batch-sentence img, .batch-item b").count() == 0


def test_a_closed_page_shows_its_batches_again_and_other_browsers_do_not(
    tab: Tab, visit: Open, running_service: Instance
) -> None:
    tab.upload(archive(ROWS[:3]), "first.zip")
    tab.wait("done")
    tab.upload(archive(ROWS[:2]), "second.zip")
    expect(tab.page.locator(".batch-item strong")).to_have_text(["second.zip", "first.zip"])
    ids, context = tab.ids, tab.visit.context
    tab.page.close()  # while the second may still run
    again = Tab(Visit(context, running_service.page).open())
    assert again.ids == ids
    again.wait("done")
    expect(again.page.locator(".batch-one h2")).to_have_text("second.zip")
    expect(again.rows).to_have_count(2)
    again.page.locator(".batch-item", has_text="first.zip").click()
    expect(again.rows).to_have_count(3)
    assert Tab(visit(running_service.page)).ids == []


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[Callable[[], Instance]]:
    """Start a service with the same ports and folder as before."""
    running: list[Instance] = []

    def start() -> Instance:
        ports = (running[0].port, running[0].health_port) if running else None
        running.append(Instance(tmp_path / "run", "--model", "demo", "--timeout", "60", ports=ports))
        return running[-1]

    yield start
    for instance in running:
        instance.__exit__()


def test_a_killed_and_restarted_server_finishes_the_batch_in_the_open_tab(
    visit: Open, restartable: Callable[[], Instance]
) -> None:
    service = restartable()
    service.wait_healthy()
    tab = Tab(visit(service.page))
    rows = many(10)
    tab.upload(archive(rows))
    expect(tab.page.locator(".batch-item")).to_have_count(1)
    with httpx.Client(base_url=service.page, timeout=120) as client:
        service.wait_for(
            "a verdict", lambda: client.get(f"/v1/batches/{tab.ids[0]}").json()["rows"]["done"] > 0
        )
    service.process.kill()
    service.process.wait()
    assert "BATCH_ENDED" not in service.log, "killed in the middle"
    expect(tab.page.locator("#batch [data-text=trouble]")).to_have_text(EN["retrying"])
    restartable().wait_healthy()
    tab.wait("done")
    expect(tab.page.locator("#batch [data-text=trouble]")).to_be_empty()
    expect(tab.page.locator("#batch [data-text=range]")).to_have_text(f"1–100 of {len(rows)}")
    assert [row["row"] for row in tab.judged] == list(range(1, len(rows) + 1))

    expect(tab.rows).to_have_count(100)
    tab.page.get_by_role("button", name=EN["next"]).click()
    assert tab.shown() == list(range(102, len(rows) + 2))
    tab.page.fill(".batch-search input", "sentence 7")
    assert tab.shown() == [number for number, (_, text) in enumerate(rows, 2) if "sentence 7" in text]


def test_a_cancelled_batch_keeps_its_rows_and_can_be_removed(tab: Tab) -> None:
    rows = many(150)
    tab.upload(archive(rows))
    expect(tab.rows).not_to_have_count(0)
    asked: list[str] = []
    tab.page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    tab.page.get_by_role("button", name=EN["cancel"], exact=True).click()
    assert asked == [EN["cancel_ask"]]
    tab.page.on("dialog", lambda dialog: dialog.accept())
    tab.page.get_by_role("button", name=EN["cancel"], exact=True).click()
    tab.wait("cancelled")
    expect(tab.page.get_by_role("button", name=EN["cancel"], exact=True)).to_be_hidden()
    assert 0 < len(tab.judged) < len(rows)
    (batch,) = tab.ids
    tab.page.get_by_role("button", name=EN["remove"]).click()
    expect(tab.page.locator(".batch-one")).to_be_hidden()
    assert tab.ids == []
    assert tab.page.request.get(f"{tab.visit.base}/v1/batches/{batch}").status == 410


@pytest.mark.parametrize(("locale", "language"), LOCALES)
def test_a_list_with_other_columns_is_refused_with_its_columns_and_accepted_with_names(
    visit: Open, running_service: Instance, locale: str, language: Language
) -> None:
    tab = Tab(visit(running_service.page, locale=locale), language)
    tab.upload(archive(ROWS[:2], "sku;foto;titel"))
    refused = tab.page.get_by_role("alert").filter(has_text=tab.word["refused"])
    expect(refused).to_contain_text(tab.word["columns_found"].format(columns="sku, foto, titel"))
    assert tab.ids == []
    tab.page.fill("#batch input[name=image_column]", "foto")
    tab.page.fill("#batch input[name=text_column]", "titel")
    refused.get_by_role("button").click()
    tab.wait("done")
    expect(tab.rows).to_have_count(2)
    expect(refused).to_be_hidden()


def test_a_file_that_is_no_list_is_refused(tab: Tab) -> None:
    tab.upload(b"not a zip", "holiday.zip")
    expect(tab.page.locator("#batch [data-text=refused]")).not_to_be_empty()
    assert tab.ids == []


def test_an_unknown_batch_says_so(tab: Tab, visit: Open) -> None:
    stored = json.dumps([{"id": "0" * 32, "name": "old.csv", "when": 0, "status": {"state": "running"}}])
    tab.page.evaluate("stored => localStorage.setItem('ofa-batches', stored)", stored)
    tab.page.reload()
    again = Tab(tab.visit)
    again.wait("unknown")
    expect(again.page.locator("#batch [data-text=trouble]")).to_have_text(EN["unknown_text"])
    expect(again.page.locator("#batch [data-format=csv]")).to_be_hidden()


def test_an_expired_batch_says_so(visit: Open, restartable: Callable[[], Instance]) -> None:
    service = restartable()
    service.wait_healthy()
    tab = Tab(visit(service.page))
    tab.upload(archive(ROWS[:1]))
    tab.wait("done")
    service.terminate()
    with contextlib.closing(sqlite3.connect(service.run_dir / "batches" / "batches.sqlite")) as store, store:
        store.execute("UPDATE batches SET expires = ?", [time.time()])
    restarted = restartable()
    restarted.wait_for("the deletion", lambda: "BATCHES_EXPIRED" in restarted.log)
    restarted.wait_healthy()
    tab.page.reload()
    again = Tab(tab.visit)
    again.wait("expired")
    expect(again.page.locator("#batch [data-text=trouble]")).to_have_text(EN["expired_text"])
    expect(again.rows).to_have_count(0)


def test_without_a_store_the_tab_says_why_and_takes_no_list(visit: Open, tmp_path: Path) -> None:
    (tmp_path / "batches").touch()  # a file in the place of the folder
    with Instance(tmp_path, "--model", "demo") as service:
        service.wait_healthy()
        tab = Tab(visit(service.page), ready=".batch-off")
        expect(tab.page.locator("#batch [data-text=off]")).to_have_text(EN["off.folder"])
        expect(tab.page.locator(".batch-drop")).to_be_hidden()


def test_rows_that_a_calibrated_model_leaves_to_people_are_marked(visit: Open, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(ROOT / "models" / "demo", model)
    sha256 = hashlib.sha256((model / "pytorch_model.bin").read_bytes()).hexdigest()
    thresholds = {"format": 1, "weights_sha256": sha256, "temperature": 1.0, "accept": 0.999, "review": 0.5}
    (model / "calibration.json").write_text(json.dumps(thresholds))
    with Instance(tmp_path / "run", "--model", str(model)) as service:
        service.wait_healthy()
        tab = Tab(visit(service.page))
        tab.upload(archive(ROWS))
        tab.wait("done")
        expect(tab.rows).to_have_count(len(ROWS))
        review = [row["line"] for row in tab.judged if row.get("decision") == "review"]
        assert 0 < len(review) < len(ROWS)
        tab.choose("review")
        assert tab.shown() == review
        assert tab.page.locator(".batch-decision").all_inner_texts() == [EN["review"]] * len(review)


def test_the_keyboard_is_enough(tab: Tab) -> None:
    page = tab.page
    with page.expect_file_chooser() as chooser:
        page.locator(".batch-drop input").press("Enter")
    chooser.value.set_files({"name": "a.zip", "mimeType": "application/zip", "buffer": archive(ROWS[:4])})
    tab.wait("done")
    expect(tab.rows).to_have_count(4)
    expect(page.locator(".batch-one h2")).to_be_focused()
    head = page.locator("#batch [data-sort=line]")
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(head).to_have_attribute("aria-sort", "descending")
    assert tab.shown() == [5, 4, 3, 2]
    page.locator("#batch input[value=all]").focus()
    page.keyboard.press("ArrowRight")
    yes = [row["line"] for row in tab.judged if row["label"] == "Yes"]
    assert sorted(tab.shown()) == yes


@pytest.mark.parametrize(("locale", "language"), [("en-US", "en"), ("zh-CN", "zh")])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_the_tab_is_accessible_and_fits_the_screen(
    visit: Open, running_service: Instance, locale: str, language: Language, scheme: str, width: int
) -> None:
    tab = Tab(visit(running_service.page, locale=locale, scheme=scheme, width=width), language)
    tab.upload(archive(ROWS))
    tab.wait("done")
    expect(tab.rows).to_have_count(len(ROWS))
    tab.upload(b"not a zip", "holiday.zip")
    expect(tab.page.locator("#batch [data-text=refused]")).not_to_be_empty()
    tab.page.locator("#batch details summary").click()
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    expect(tab.rows.first.locator(".batch-bars")).to_be_visible()
    violations = Axe().run(tab.page).response["violations"]
    assert [
        (one["id"], one["nodes"][0]["html"]) for one in violations if one["impact"] in ("serious", "critical")
    ] == []
    if language == "zh":
        texts = tab.page.locator("#batch h2, #batch h3, #batch th, #batch .batch-mark").all_inner_texts()
        own = re.compile(r"products\.zip")
        assert [
            text for text in texts if not re.search(r"[\u4e00-\u9fff]", text) and not own.match(text)
        ] == []
