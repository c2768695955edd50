"""What the operations tab shows: plots with their gaps, words in two languages, nothing unescaped."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from page import panel
from page.plots import Line, bucketed, ceiling, figure, runs
from page.words import LANGUAGES, Language, has, say
from service import restarts
from service.doctor.findings import Severity
from service.status import Phase
from tests.web.application import STATES, FakeDesk, FakeFinding


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
    desk = FakeDesk(lambda: STATES[state])
    shown = panel.parts(desk.view(), desk.restarts(), language)
    assert {name for name, html in shown.items() if not html} == set()
    assert set(re.findall(r'data-part="(\w+)"', panel.frame(language))) == {*shown, "findings"}
    enabled = 'data-do="probe" title' in shown["buttons"]
    assert enabled is (STATES[state].phase is Phase.LOADED)
    assert ('data-do="cache" title' in shown["buttons"]) is (state == "cuda")


def test_chinese_is_chinese_in_every_part() -> None:
    desk = FakeDesk(lambda: STATES["cuda"])
    shown = panel.parts(desk.view(), [], "zh")
    shown |= {"login": panel.login("zh"), "frame": panel.frame("zh")}
    assert [name for name, html in shown.items() if not re.search(r"[\u4e00-\u9fff]", html)] == []


def test_what_others_wrote_is_escaped() -> None:
    desk = FakeDesk(lambda: STATES["ready"])
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
    desk = FakeDesk(lambda: STATES["ready"])
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
    desk = FakeDesk(lambda: STATES["ready"])
    for language, cause in (("en", "It hung"), ("zh", "卡死了")):
        shown = panel.parts(desk.view(), desk.restarts(), language)["restarts"]
        assert f"<b>{cause}</b>" in shown
        assert "restart 1 of 5: process 7 is hung: /livez" in shown


def test_one_that_was_refused_is_listed_with_what_is_known_of_it() -> None:
    desk = FakeDesk(lambda: STATES["ready"])
    shown = panel.parts(desk.view(), [], "en")["requests"]
    (row,) = re.findall(r"<tr>(?:(?!<tr>).)*no_image.*?</tr>", shown)
    assert re.findall("<td>(.*?)</td>", row)[1:] == [
        *("req_1_a9", "api", "no_image", "0.01 s", "–", "–", "9", "–"),
    ]


def test_now_names_model_device_queue_and_what_an_answer_takes() -> None:
    desk = FakeDesk(lambda: STATES["queue"])
    shown = panel.parts(desk.view(), [], "en")["facts"]
    for told in ("demo", "CPU · fp32", "3 of 32 waiting, 1 being computed · an answer takes about 6 s"):
        assert told in shown
