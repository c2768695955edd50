"""Several texts about one picture in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from lab.parity.folders import SMALL, write_folder
from ofa.network import Encoder
from service.application import Application
from service.contract.causes import InputCode
from service.contract.errors import InputError, InvalidTexts
from service.contract.protocols import CancelPoint
from service.contract.request import MAX_TEXTS, Pair, VerdictFuture
from service.inference.native import NativePredictor
from tests.applications import Build, Hub
from tests.fakes import NO, PATIENCE, PICTURE, YES, FakePredictor, Gate, until


class Seen(FakePredictor):
    """Record the pairs of each batch; texts in capitals get No."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Pair]] = []

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        self.batches.append(list(pairs))
        super().judge(pairs, cancel_point)
        return [NO if pair.hypothesis.isupper() else YES for pair in pairs]


def loaded(make: Build, model: FakePredictor, **settings: object) -> Application:
    application: Application = make(model, **settings)
    application.supervisor.load()
    until(lambda: application.report().healthy)
    return application


def test_the_texts_are_judged_in_their_order_in_one_batch_about_one_picture(
    make: Build, tmp_path: Path
) -> None:
    model = Seen()
    application = loaded(make, model)
    del model.batches[:]
    PICTURE.save(tmp_path / "picture.png")
    texts = [letter if n % 3 else letter.upper() for n, letter in enumerate("abcdefghij")]
    futures = application.submit_many(tmp_path / "picture.png", texts, "men", caller="somebody")
    labels = [future.result(PATIENCE).label for future in futures]
    assert labels == ["No" if text.isupper() else "Yes" for text in texts]
    (batch,) = model.batches
    assert len({id(pair.image) for pair in batch}) == 1
    assert {pair.premise for pair in batch} == {"men"}
    assert len({future.result().request_id for future in futures}) == len(texts)


def test_the_network_encodes_the_picture_once(
    make: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "model", SMALL["defaults-resnet18"])
    encoded: list[int] = []
    see = Encoder.see

    def counting(self: Encoder, pixels: object, cancel_point: object) -> object:
        encoded.append(len(pixels))  # type: ignore[arg-type]
        return see(self, pixels, cancel_point)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "see", counting)

    class Local(Hub):
        def __call__(self, *args: object, **more: object) -> Path:
            return folder

    application = make(NativePredictor(device="cpu", dtype="fp32"), Local(), max_batch=2, timeout=600.0)
    application.supervisor.load()
    until(lambda: application.report().healthy)
    del encoded[:]
    texts = ["a dog", "two men are talking", "a dog on a chair", "nobody", "it is raining"]
    futures = application.submit_many(PICTURE, texts)
    assert [future.result(PATIENCE).reason for future in futures] == [None] * 5
    assert encoded == [1]


def test_texts_that_cannot_be_judged_are_reported_together_and_nothing_is_queued(make: Build) -> None:
    application = loaded(make, FakePredictor(), max_chars=10)
    before = application.snapshot().activity.counts
    texts = ["good", " \u200b", None, "x" * 11, "good"]
    with pytest.raises(InvalidTexts) as caught:
        application.submit_many(PICTURE, texts)
    assert caught.value.errors == [
        (1, InputCode.NO_TEXT),
        (2, InputCode.NO_TEXT),
        (3, InputCode.TEXT_TOO_LONG),
    ]
    assert caught.value.code == InputCode.NO_TEXT
    assert application.snapshot().activity.counts == before


@pytest.mark.parametrize(
    ("count", "settings", "code"),
    [
        (0, {}, InputCode.NO_TEXT),
        (MAX_TEXTS, {}, None),
        (MAX_TEXTS + 1, {}, InputCode.TOO_MANY_TEXTS),
        (6, {"queue_size": 8}, None),
        (7, {"queue_size": 8}, InputCode.TOO_MANY_TEXTS),
    ],
)
def test_as_many_texts_are_taken_as_one_caller_may_have_waiting(
    count: int, settings: dict[str, int], code: InputCode | None, make: Build
) -> None:
    application = loaded(make, FakePredictor(), **settings)
    texts = ["a"] * count
    if code is None:
        futures = application.submit_many(PICTURE, texts, caller="somebody")
        assert [future.result(PATIENCE).reason for future in futures] == [None] * count
        return
    with pytest.raises(InputError) as caught:
        application.submit_many(PICTURE, texts)
    assert caught.value.code == code


@pytest.fixture
def busy(make: Build) -> Iterator[Callable[..., Application]]:
    """Applications that compute until the end of the test."""
    gate, model = Gate(), FakePredictor()

    def start(**settings: object) -> Application:
        application = loaded(make, model, **settings)
        model.behave = gate
        application.submit(PICTURE, "running", caller="greedy")
        assert gate.entered.wait(PATIENCE)
        return application

    yield start
    gate.opened.set()


def test_a_caller_at_its_limit_is_refused_before_any_decoding_and_others_are_not(
    busy: Callable[..., Application], monkeypatch: pytest.MonkeyPatch
) -> None:
    application = busy(queue_size=8)
    waiting = application.submit_many(PICTURE, ["a"] * 5, caller="greedy")

    def decode(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    with monkeypatch.context() as context:
        context.setattr("service.intake.image.converted", decode)
        refused = application.submit_many(PICTURE, ["a"] * 2, caller="greedy")
    assert [(one.result(0).reason, one.result(0).code) for one in refused] == [("busy", "caller_limit")] * 2
    assert application.report().ready.ok
    waiting += application.submit_many(PICTURE, ["b"] * 2, caller="other")
    assert not any(future.done() for future in waiting)


def test_futures_that_are_given_are_used_and_cancelling_all_ends_the_decoding(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    application = loaded(make, FakePredictor())
    futures = [VerdictFuture() for _ in range(3)]
    read: list[VerdictFuture] = []

    def abandoned(image: object, hypotheses: object, premise: object, **more: VerdictFuture) -> object:
        for future in futures:
            read.append(more["wanted"])
            assert not more["wanted"].cancelled()
            future.cancel()
        return prepare(image, hypotheses, premise, **more)

    intake = application._intake
    prepare = intake.prepare
    monkeypatch.setattr(intake, "prepare", abandoned)
    assert application.submit_many(PICTURE, ["a", "b", "c"], futures=futures) == futures
    assert read[0].cancelled()
    assert application.snapshot().activity.counts.get("accepted", 0) == 1, "the probe alone"
