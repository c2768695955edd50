"""The schema equals the kept one, docs/api.md lists its codes, and the documentation page needs no script."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import httpx
import pytest

from api import docs, schema
from api.app import create_api
from api.problems import STATUS
from lab import ROOT
from service.settings import Settings
from tests.api.serving import ScriptedApplication

KEPT = ROOT / "docs" / "openapi.json"


def test_the_schema_is_the_kept_one(api: httpx.Client) -> None:
    """A change of the contract shows in the diff of docs/openapi.json: python -m api.schema rewrites it."""
    answer = api.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.text == KEPT.read_text(encoding="utf-8")


def test_every_reference_of_the_schema_exists() -> None:
    text = KEPT.read_text(encoding="utf-8")
    made = json.loads(text)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in made["components"]["schemas"]


def test_every_route_is_in_the_schema() -> None:
    with ThreadPoolExecutor(1) as intake:
        api = create_api(ScriptedApplication(), Settings(), intake=intake)
    served = {route.path for route in api._routes.routes}  # type: ignore[attr-defined]
    documented = {path.replace("{model}", "{model:path}") for path in json.loads(KEPT.read_text())["paths"]}
    assert served - {"/docs", "/openapi.json"} == documented


def test_the_documented_codes_are_those_of_the_schema() -> None:
    documented: dict[str, set[str]] = {}
    for endpoint, codes in table():
        documented.setdefault(endpoint, set()).update(codes)
    assert documented == {
        endpoint: set(codes) for endpoint, codes in schema.codes_of(json.loads(KEPT.read_text())).items()
    }


def test_every_code_has_its_status_and_meaning_in_the_document() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| (.+) \|$", text, re.MULTILINE)
    assert {code: int(status) for status, code, _ in rows} == {
        str(code): status for code, status in STATUS.items()
    }


def table() -> Iterator[tuple[str, set[str]]]:
    """Yield the rows of the table of endpoints in docs/api.md."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for endpoint, codes in re.findall(
        r"^\| `((?:GET|POST|DELETE) /v\S+)` \|[^|]*\| (.*) \|$", text, re.MULTILINE
    ):
        yield endpoint, set(re.findall(r"`(\w+)`", codes))


class Page(HTMLParser):
    """Collects what a strict policy would block, ids and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.blocked: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name.startswith("on") or name in ("style", "src"):
                self.blocked.append(f"{tag} {name}")
            if name == "id":
                self.ids.add(value or "")
            if name == "href":
                self.links.add(value or "")
        if tag in ("script", "link", "iframe", "object", "img"):
            self.blocked.append(tag)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_documentation_needs_no_script_and_names_everything(api: httpx.Client, language: str) -> None:
    answer = api.get("/docs", headers={"accept-language": language})
    assert answer.headers["content-security-policy"] == docs.CSP
    assert "script" not in docs.CSP
    assert "unsafe" not in docs.CSP
    assert answer.headers["content-language"] == language
    page = Page(answer.text)
    assert page.blocked == []
    assert set(map(str, STATUS)) <= page.ids
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= page.ids
    for path in json.loads(KEPT.read_text())["paths"]:
        assert path in answer.text


def test_the_type_of_a_problem_leads_to_its_code(api: httpx.Client) -> None:
    problem = api.get("/v1/nothing").json()
    path, _, code = problem["type"].partition("#")
    assert code in Page(api.get(path).text).ids
