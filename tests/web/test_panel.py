"""What the operations tab shows: plots with their gaps, words in two languages, nothing unescaped."""

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


def test_values_of_one_stretch_are_joined_and_the_newest_come_last() -> None:
    ages = {0.0: 1.0, 9.9: 5.0, 10.0: 2.0, 39.9: 3.0, 40.0: 9.0, -1.0: 9.0}
    points = bucketed(ages, lambda age: age, ages.__getitem__, span=40, count=4)
    assert points == [3.0, None, 2.0, 9.0]


def test_what_is_not_known_is_a_gap() -> None:
    assert runs([1.0, None, 2.0, 3.0, None]) == [[(0, 1.0)], [(2, 2.0), (3, 3.0)]]
    drawn = figure("t", [Line("n", 1, [1.0, None, 2.0, 3.0])], times=[], shown=str, least=1)
    (path,) = re.findall(r'class="plot-line tone-1" d="([^"]*)"', drawn)
    assert path == "M0 80.0h0M2 60.0L3 40.0"


def test_a_plot_says_in_words_what_it_shows() -> None:
    drawn = figure("Queue", [Line("waiting", 1, [1.0, 3.0])], times=["then", "now"], shown=str, least=1)
    assert 'aria-label="Queue. waiting: 3.0"' in drawn
    assert "5.0" in drawn
    assert figure("Queue", [Line("waiting", 1, [None])], times=[], shown=str, least=1).count("–") == 2


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("state", STATES)
def test_every_state_can_be_shown(language: Language, state: str) -> None:
    desk = FakeOperationsService(lambda: STATES[state])
    shown = panel.parts(desk.view(), desk.restarts(), language)
    assert {name for name, html in shown.items() if not html} == set()
    assert set(re.findall(r'data-part="(\w+)"', panel.frame(language))) == {*shown, "findings"}
    enabled = 'data-do="probe" title' in shown["buttons"]
    assert enabled is (STATES[state].phase is Phase.LOADED)
    assert ('data-do="cache" title' in shown["buttons"]) is (state == "cuda")


def test_chinese_is_chinese_in_every_part() -> None:
    desk = FakeOperationsService(lambda: STATES["cuda"])
    shown = panel.parts(desk.view(), [], "zh")
    shown |= {"login": panel.login("zh"), "frame": panel.frame("zh")}
    assert [name for name, html in shown.items() if not re.search(r"[\u4e00-\u9fff]", html)] == []


def test_what_others_wrote_is_escaped() -> None:
    desk = FakeOperationsService(lambda: STATES["ready"])
    shown = panel.parts(desk.view(), desk.restarts(), "en")
    assert "<b>answer" not in shown["restarts"]
    assert "&lt;b&gt;answer" in shown["restarts"]
    assert "<b>line" not in panel.findings(desk.findings(), "en")


def test_findings_say_when_there_are_none_and_when_nobody_looked() -> None:
    assert "Nothing is wrong" in panel.findings([], "en")
    assert "not examined" in panel.findings(None, "en")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (119, "119 s"), (600, "10 min"), (12_000, "3 h 20 min"), (190_000, "2 d 4 h"), (-3, "0 s")],
)
def test_ages_are_for_people(seconds: float, told: str) -> None:
    assert panel.age(seconds, "en") == told


def test_findings_are_told_in_the_language_of_the_page_and_their_lines_as_they_stand() -> None:
    desk = FakeOperationsService(lambda: STATES["ready"])
    english, chinese = (panel.findings(desk.findings(), language) for language in LANGUAGES)
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
def test_whatever_the_guardian_says_has_words_in_both_languages(kind: str) -> None:
    assert has(f"ops.restart.{kind}")


def test_a_restart_is_told_by_its_cause_beside_the_guardians_own_line() -> None:
    desk = FakeOperationsService(lambda: STATES["ready"])
    for language, cause in (("en", "It hung"), ("zh", "卡死了")):
        shown = panel.parts(desk.view(), desk.restarts(), language)["restarts"]
        assert f"<b>{cause}</b>" in shown
        assert "restart 1 of 5: process 7 is hung: /livez" in shown


def test_one_that_was_refused_is_listed_with_what_is_known_of_it() -> None:
    desk = FakeOperationsService(lambda: STATES["ready"])
    shown = panel.parts(desk.view(), [], "en")["requests"]
    (row,) = re.findall(r"<tr>(?:(?!<tr>).)*req_1_a9.*?</tr>", shown)
    assert re.findall("<td>(.*?)</td>", row)[1:] == [
        *("req_1_a9", "api", "no picture", "0.01 s", "–", "9", "–"),
    ]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", [*Outcome, *Refusal, *InputCode])
def test_every_outcome_is_shown_in_words(language: Language, code: str) -> None:
    view = replace(
        FakeOperationsService(lambda: STATES["ready"]).view(), requests=[Ended(0, "api", code, "req_1_aa")]
    )
    row = re.findall("<td>(.*?)</td>", panel.parts(view, [], language)["requests"])
    assert row[3] == escape(say(language, f"ops.outcome.{code}"))


def test_a_request_has_one_time_written_as_in_the_figures() -> None:
    desk, sample = (
        FakeOperationsService(lambda: STATES["ready"]),
        FakeOperationsService(lambda: STATES["ready"]).view().samples[-1],
    )
    request = Ended(0, "api", "answered", "req_1_aa", "Yes", 1.386)
    view = replace(desk.view(), requests=[request], samples=[replace(sample, p50=1.386, p95=1.386)])
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


def test_now_names_model_device_queue_and_what_an_answer_takes() -> None:
    desk = FakeOperationsService(lambda: STATES["queue"])
    shown = panel.parts(desk.view(), [], "en")["facts"]
    for told in ("demo", "CPU · fp32", "3 of 32 waiting, 1 being computed · an answer takes about 6 s"):
        assert told in shown
