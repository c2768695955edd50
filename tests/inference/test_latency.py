"""The forecast of durations: what it reads, what it refuses, and what the engine makes of it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.contract.request import QueueEstimate
from service.inference.engine import Engine, Limits
from service.inference.latency import (
    FEATURES,
    LATENCY_FILE,
    Arrival,
    Forecast,
    Forest,
    Tree,
    as_json,
    load,
    parse,
)
from tests.fakes import Clock, FakeJournal, FakePredictor, ask

STUMP = Tree([FEATURES.index("ahead"), -1, -1], [2.5, 0, 0], [1, -1, -1], [2, -1, -1], [0.0, 0.0, 3.0])
#: As the average up to two requests ahead, 20 times as long beyond.
FORECAST = Forecast(Forest(0.0, [STUMP]), Forest(0.0, [STUMP]), chars=20.0, megapixels=0.3)
ARRIVAL = Arrival(ahead=0, recent=1, trend=1, chars=20, megapixels=0.3, gpu=0)


def told() -> dict[str, Any]:
    return dict(json.loads(as_json(FORECAST)))


def test_a_forecast_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / LATENCY_FILE).write_text(as_json(FORECAST, error_seconds=0.1))
    forecast = load(tmp_path)
    assert forecast is not None
    for ahead, seconds in ((0, 1.0), (2, 3.0), (3, 80.34)):
        assert forecast.expected.seconds(replace(ARRIVAL, ahead=ahead)) == pytest.approx(seconds, abs=0.01)


def test_without_a_file_there_is_no_forecast(tmp_path: Path) -> None:
    assert load(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"features": ["ahead"]},
        {"expected": None},
        {"expected": {"base": "1", "trees": []}},
        {"expected": {"base": float("nan"), "trees": []}},
        {"least": {"base": 0, "trees": [{}]}},
        {"chars": True},
    ],
)
def test_what_is_no_forecast_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(told() | change)
    (tmp_path / LATENCY_FILE).write_text(json.dumps(told() | change))
    assert load(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("left", [0, -1, -1]),  # a walk without end
        ("left", [9, -1, -1]),
        ("feature", [99, -1, -1]),
        ("feature", []),
        ("value", [0.0]),
        ("threshold", [float("inf"), 0, 0]),
    ],
)
def test_arrays_that_are_no_tree_are_refused(name: str, values: list[float]) -> None:
    forecast = told()
    forecast["expected"]["trees"][0][name] = values
    with pytest.raises(ValueError, match=r"."):
        parse(forecast)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'"' + b"x" * (5 << 20) + b'"']
)
def test_a_damaged_file_leaves_the_moving_average(data: bytes, tmp_path: Path) -> None:
    (tmp_path / LATENCY_FILE).write_bytes(data)
    assert load(tmp_path) is None


def test_no_forecast_is_longer_than_an_hour() -> None:
    wild = Forest(1e300, [])
    assert wild.seconds(ARRIVAL) == pytest.approx(3600)


# ---- in the engine ---------------------------------------------------------------------------------------


@pytest.fixture
def engine(journal: FakeJournal, clock: Clock) -> Engine:
    """Without threads; one request has been computed, in a second."""

    def second(pairs: Any, cancel: Any) -> Any:
        clock.move(1.0)
        return [{"Yes": 0.8, "No": 0.1, "Maybe": 0.1} for _ in pairs]

    made = Engine(FakePredictor(second), journal, Limits(), forecast=FORECAST, clock=clock)
    made.submit(ask("first", now=clock.now))
    made.step()
    return made


def test_what_cannot_be_answered_in_time_is_refused_at_once(engine: Engine, clock: Clock) -> None:
    for name in ("one", "two", "three"):
        assert not engine.submit(ask(name, now=clock.now, limit=15)).done()
    late = engine.submit(ask("late", now=clock.now, limit=15)).result(0)
    assert (late.reason, late.code, late.retry_after) == ("busy", "too_late", 81.0)
    assert not engine.submit(ask("patient", now=clock.now, limit=100)).done()
    assert engine.activity().counts["rejected"] == 1


def test_who_is_alone_is_always_tried(journal: FakeJournal, clock: Clock) -> None:
    hopeless = replace(FORECAST, least=Forest(99.0, []))
    engine = Engine(FakePredictor(), journal, Limits(), forecast=hopeless, clock=clock)
    for name in ("first", "second"):
        future = engine.submit(ask(name, now=clock.now))
        engine.step()
        assert future.result(0).reason is None


def test_a_probe_is_never_refused_for_what_was_forecast(engine: Engine, clock: Clock) -> None:
    for name in ("one", "two", "three"):
        engine.submit(ask(name, now=clock.now, limit=15))
    assert not engine.submit(ask("probe", now=clock.now, limit=1, source="probe")).done()


def test_before_anything_was_computed_nothing_is_forecast(journal: FakeJournal, clock: Clock) -> None:
    engine = Engine(FakePredictor(), journal, Limits(), forecast=FORECAST, clock=clock)
    for n in range(5):
        assert not engine.submit(ask(str(n), now=clock.now)).done()
    assert engine.activity().retry_after == 5.0


def test_the_wait_that_is_told_is_the_forecasts(engine: Engine, clock: Clock) -> None:
    assert engine.activity().retry_after == 1.0
    for n in range(3):
        engine.submit(ask(str(n), now=clock.now))
    assert engine.activity().retry_after == 81.0


def test_who_is_accepted_is_told_what_to_expect_by_the_same_figures(engine: Engine, clock: Clock) -> None:
    waits = [engine.submit(ask(str(n), now=clock.now, limit=100)).queue_estimate for n in range(4)]
    assert [(one.ahead, round(one.seconds or 0, 1)) for one in waits if one] == [
        *((0, 1.0), (1, 2.0), (2, 3.0)),
        (3, 80.3),
    ]
    assert engine.activity().expected_seconds == pytest.approx(100.43, abs=0.01)
    assert engine.submit(ask("late", now=clock.now, limit=1)).queue_estimate is None, "refused"


def test_without_a_forecast_the_average_is_told_and_before_any_nothing(
    journal: FakeJournal, clock: Clock
) -> None:
    def second(pairs: Any, cancel: Any) -> Any:
        clock.move(1.0)
        return [{"Yes": 0.8, "No": 0.1, "Maybe": 0.1} for _ in pairs]

    engine = Engine(FakePredictor(second), journal, Limits(), clock=clock)
    assert engine.submit(ask("first", now=clock.now)).queue_estimate == QueueEstimate(0, None)
    assert engine.submit(ask("second", now=clock.now)).queue_estimate == QueueEstimate(1, None)
    assert engine.activity().expected_seconds is None
    engine.step()
    assert engine.activity().expected_seconds == 0.5, "two were computed together in a second"
    assert engine.submit(ask("third", now=clock.now)).queue_estimate == QueueEstimate(0, 0.5)
    assert engine.submit(ask("fourth", now=clock.now)).queue_estimate == QueueEstimate(1, 1.0)
    assert engine.activity().expected_seconds == 1.5


# ---- training --------------------------------------------------------------------------------------------


def recorded(folder: Path, seconds: Any, count: int = 400) -> Path:
    """Logs of requests that wait and compute for what ``seconds`` makes of (ahead, chars)."""
    choose, lines = random.Random(3), []
    for n in range(count):
        ahead, chars = choose.randint(0, 5), choose.randint(5, 900)
        waited, computed = seconds(ahead, chars)
        took = f"DURATION={waited + computed:.2f}s | DEVICE=cpu | SOURCE=api | PREPARED=0.00s"
        timing = f"AHEAD={ahead} | WAITED={waited:.2f}s | COMPUTED={computed:.2f}s | BATCH=1"
        stamp = "2026-11-22 20:00:00 | INFO     | "
        lines += [
            f"{stamp}REQUEST_START | req_{n} | TEXT_LEN={chars} | IMG_SIZE=(640, 480) | SOURCE=api",
            f"{stamp}REQUEST_END | req_{n} | LABEL=Yes | SCORE=0.9 | {took} | {timing}",
        ]
    folder.mkdir(exist_ok=True)
    (folder / "web_app.log").write_text("\n".join(lines) + "\n")
    return folder


def test_what_texts_cost_is_learnt_and_kept_as_plain_numbers(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="an optional extra: requirements-latency.txt")
    from doctor import read
    from doctor.training import train

    folder = recorded(tmp_path / "a", lambda ahead, chars: (0.3 * ahead, 0.2 + 0.004 * chars))
    outcome = train(read(folder))
    assert outcome.kept
    assert outcome.forecast < 0.5 * outcome.average
    forecast = load(folder)
    assert forecast is not None
    short, long = (replace(ARRIVAL, ahead=2, chars=chars, megapixels=0.3072) for chars in (20, 850))
    assert forecast.expected.seconds(long) > 2 * forecast.expected.seconds(short)
    assert forecast.least.seconds(long) <= 1.1 * forecast.expected.seconds(long)


def test_the_trees_say_what_scikit_learn_would(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="an optional extra: requirements-latency.txt")
    import math
    from dataclasses import astuple

    from sklearn.ensemble import GradientBoostingRegressor

    from doctor import read
    from doctor.training import _forest, examples

    learnt = examples(read(recorded(tmp_path / "a", lambda ahead, chars: (ahead * chars / 500, 0.1))))
    features = [astuple(one.arrival) for one in learnt]
    model = GradientBoostingRegressor(loss="quantile", alpha=0.5, n_estimators=30, random_state=0)
    model.fit(features, [math.log(one.seconds / one.arrival.average) for one in learnt])
    forest = _forest(model)
    ours = [math.log(forest.seconds(one.arrival) / one.arrival.average) for one in learnt]
    assert ours == pytest.approx(list(model.predict(features)))


def test_what_is_no_better_than_the_average_is_not_kept(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="an optional extra: requirements-latency.txt")
    from doctor import read
    from doctor.training import train

    folder = recorded(tmp_path / "a", lambda ahead, chars: (ahead, 1.0))
    (folder / LATENCY_FILE).write_text(as_json(FORECAST))
    outcome = train(read(folder))
    assert (outcome.kept, outcome.average) == (False, 0.0)
    assert load(folder) is None  # the older one is gone, too: it was made of other logs


def test_too_few_requests_teach_nothing(tmp_path: Path) -> None:
    from doctor import read
    from doctor.training import TooFew, train

    with pytest.raises(TooFew, match="too few"):
        train(read(recorded(tmp_path / "a", lambda ahead, chars: (0.0, 1.0), count=40)))
