"""The HTML of the operations tab: plots with gaps, both languages, everything escaped."""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape
from typing import get_args

import pytest

from doctor.findings import Severity
from page.operations import panel
from page.operations.plots import Line, bucketed, ceiling, figure, runs
from page.words import LANGUAGES, Language, has, say
from service.contract.causes import InputCode, Outcome, Refusal
from service.contract.status import Phase
from service.process import restart_log as restarts
from service.telemetry.history import Ended
from tests.web.application import STATES, FakeFinding, FakeOperationsService


@pytest.mark.parametrize(
    ("value", "top"),
    [(0, 1), (0.03, 0.05), (0.1, 0.1), (1, 1), (1.1, 2), (4, 5), (7, 10), (123, 200), (640e6, 1e9)],
)
def test_a_scale_ends_at_a_round_number(value: float, top: float) -> None:
    assert ceiling(value) == pytest.approx(top)


def test_values_of_one_bucket_are_joined_and_the_newest_come_last() -> None:
    ages = {0.0: 1.0, 9.9: 5.0, 10.0: 2.0, 39.9: 3.0, 40.0: 9.0, -1.0: 9.0}
    points = bucketed(ages, lambda age: age, ages.__getitem__, span=40, count=4)
    assert points == [3.0, None, 2.0, 9.0]


def test_missing_values_are_a_gap() -> None:
    assert runs([1.0, None, 2.0, 3.0, None]) == [[(0, 1.0)], [(2, 2.0), (3, 3.0)]]
    drawn = figure("t", [Line("n", 1, [1.0, None, 2.0, 3.0])], times=[], unit=str, least=1)
    (path,) = re.findall(r'class="plot-line tone-1" d="([^"]*)"', drawn)
    assert path == "M0 80.0h0M2 60.0L3 40.0"


def test_a_plot_has_a_text_alternative() -> None:
    drawn = figure("Queue", [Line("waiting", 1, [1.0, 3.0])], times=["then", "now"], unit=str, least=1)
    assert 'aria-label="Queue. waiting: 3.0"' in drawn
    assert "5.0" in drawn
    assert figure("Queue", [Line("waiting", 1, [None])], times=[], unit=str, least=1).count("–") == 2


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("state", STATES)
def test_every_state_can_be_shown(language: Language, state: str) -> None:
    service = FakeOperationsService(lambda: STATES[state])
    shown = panel.parts(service.view(), service.restarts(), language)
    assert {name for name, html in shown.items() if not html} == set()
    assert set(re.findall(r'data-part="(\w+)"', panel.frame(language))) == {*shown, "findings"}
    enabled = 'data-do="probe" title' in shown["buttons"]
    assert enabled is (STATES[state].phase is Phase.LOADED)
    assert ('data-do="cache" title' in shown["buttons"]) is (state == "cuda")


def test_chinese_is_chinese_in_every_part() -> None:
    service = FakeOperationsService(lambda: STATES["cuda"])
    shown = panel.parts(service.view(), [], "zh")
    shown |= {"login": panel.login("zh"), "frame": panel.frame("zh")}
    assert [name for name, html in shown.items() if not re.search(r"[\u4e00-\u9fff]", html)] == []


def test_foreign_text_is_escaped() -> None:
    service = FakeOperationsService(lambda: STATES["ready"])
    shown = panel.parts(service.view(), service.restarts(), "en")
    assert "<b>answer" not in shown["restarts"]
    assert "&lt;b&gt;answer" in shown["restarts"]
    assert "<b>line" not in panel.findings(service.findings(), "en")


def test_no_findings_and_no_doctor_are_distinguished() -> None:
    assert say("en", "ops.findings.none") in panel.findings([], "en")
    assert say("en", "ops.findings.off") in panel.findings(None, "en")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (119, "119 s"), (600, "10 min"), (12_000, "3 h 20 min"), (190_000, "2 d 4 h"), (-3, "0 s")],
)
def test_ages_are_formatted(seconds: float, shown: str) -> None:
    assert panel.age(seconds, "en") == shown


def test_findings_are_translated_and_their_evidence_is_not() -> None:
    service = FakeOperationsService(lambda: STATES["ready"])
    english, chinese = (panel.findings(service.findings(), language) for language in LANGUAGES)
    for words, shown in (("Requests take longer", english), ("同样的问题比以前慢", chinese)):
        assert words in shown
        assert "a &lt;b&gt;line&lt;/b&gt;" in shown
    assert "Requests take longer" not in chinese


@pytest.mark.parametrize("severity", get_args(Severity))
def test_every_severity_has_a_word_and_not_only_a_colour(severity: str) -> None:
    for language in LANGUAGES:
        shown = panel.findings([FakeFinding(severity=severity)], language)
        assert f"finding-{severity}" in shown
        assert say(language, f"ops.findings.{severity}") in shown


@pytest.mark.parametrize("kind", restarts.KINDS)
def test_every_cause_of_the_guardian_has_a_text(kind: str) -> None:
    assert has(f"ops.restart.{kind}")


def test_a_restart_shows_its_cause_and_the_guardians_line() -> None:
    service = FakeOperationsService(lambda: STATES["ready"])
    for language in LANGUAGES:
        shown = panel.parts(service.view(), service.restarts(), language)["restarts"]
        assert f"<b>{say(language, 'ops.restart.hung')}</b>" in shown
        assert "restart 1 of 5: process 7 is hung: /livez" in shown


def test_a_refused_request_is_listed_with_its_known_facts() -> None:
    service = FakeOperationsService(lambda: STATES["ready"])
    shown = panel.parts(service.view(), [], "en")["requests"]
    (row,) = re.findall(r"<tr>(?:(?!<tr>).)*req_1_a9.*?</tr>", shown)
    assert re.findall("<td>(.*?)</td>", row)[1:] == [
        *("req_1_a9", "api", say("en", "ops.outcome.no_image"), "0.01 s", "–", "9", "–"),
    ]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", [*Outcome, *Refusal, *InputCode])
def test_every_outcome_has_a_text(language: Language, code: str) -> None:
    view = replace(
        FakeOperationsService(lambda: STATES["ready"]).view(), requests=[Ended(0, "api", code, "req_1_aa")]
    )
    row = re.findall("<td>(.*?)</td>", panel.parts(view, [], language)["requests"])
    assert row[3] == escape(say(language, f"ops.outcome.{code}"))


def test_durations_in_the_list_and_the_figures_have_one_format() -> None:
    service, sample = (
        FakeOperationsService(lambda: STATES["ready"]),
        FakeOperationsService(lambda: STATES["ready"]).view().samples[-1],
    )
    request = Ended(0, "api", "answered", "req_1_aa", "Yes", 1.386)
    view = replace(service.view(), requests=[request], samples=[replace(sample, p50=1.386, p95=1.386)])
    shown = panel.parts(view, [], "en")
    assert re.findall(r"[\d.]+ s\b", shown["requests"]) == ["1.4 s"]
    assert re.findall(r"p\d\d <b>(.*?)</b>", shown["plots"]) == ["1.4 s", "1.4 s"]


@pytest.mark.parametrize(
    ("age", "axis"),
    [
        (None, ["2 min ago", "1 min ago", "now"]),
        (4, ["2 min ago", "1 min ago", "now"]),
        (119, ["2 min ago", "1 min ago", "now"]),
        (121, ["4 min ago", "2 min ago", "now"]),
        (1700, ["30 min ago", "15 min ago", "now"]),
        (3599, ["60 min ago", "30 min ago", "now"]),
        (4000, ["60 min ago", "30 min ago", "now"]),
    ],
)
def test_the_figures_cover_the_time_since_the_start_and_an_hour_at_most(
    age: float | None, axis: list[str]
) -> None:
    view = FakeOperationsService(lambda: STATES["ready"]).view()
    ages = [] if age is None else [age, age / 2, 0]
    samples = [replace(view.samples[-1], at=view.now - ago) for ago in ages]
    plots = panel.parts(replace(view, samples=samples), [], "en")["plots"]
    times = re.findall(r'<div class="plot-times">(.*?)</div>', plots)
    assert [re.findall("<span>(.*?)</span>", one) for one in times] == [axis] * 5
    minutes = int(axis[0].split()[0])
    widths = [int(width) for width in re.findall(r'viewBox="0 0 (\d+) ', plots)]
    band, latency, _, counts, *_ = widths
    assert (band, latency, counts) == (4 * minutes, 4 * minutes - 1, minutes - 1)


def test_samples_since_the_start_fill_the_figure() -> None:
    view = FakeOperationsService(lambda: STATES["ready"]).view()
    samples = [replace(view.samples[-1], at=view.now - ago) for ago in range(239, -1, -5)]
    plots = panel.parts(replace(view, samples=samples), [], "en")["plots"]
    assert re.findall(r'class="ops-band-healthy" x="(\d+)" width="(\d+)"', plots) == [("0", "16")]


def test_the_facts_name_model_device_queue_and_estimated_wait() -> None:
    service = FakeOperationsService(lambda: STATES["queue"])
    shown = panel.parts(service.view(), [], "en")["facts"]
    queue = say("en", "ops.queue.text", waiting=3, capacity=32, computing=1)
    wait = say("en", "queue.wait", about=say("en", "about.seconds", s=6))
    for text in ("demo", "CPU · fp32", f"{queue} · {wait}"):
        assert text in shown
