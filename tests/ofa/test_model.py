"""The complete network: batches, cancellation, number formats, the bias cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lab.parity.folders import SMALL, write_folder
from ofa.errors import TextError
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.scoring import AnswerScorer
from ofa.tokenizer import build_source


class Stopped(Exception):
    pass


def test_probabilities_of_all_three_labels_come_out(model: EntailmentModel, picture: Image.Image) -> None:
    scores = model.judge([Pair(picture, "there is a red circle")])[0]
    assert set(scores) == {"Yes", "No", "Maybe"}
    assert sum(scores.values()) == pytest.approx(1, abs=1e-12)


def test_picture_and_both_texts_matter(model: EntailmentModel, picture: Image.Image) -> None:
    other = Image.new("RGB", (50, 50), "blue")
    answers = model.judge(
        [
            Pair(picture, "a circle"),
            Pair(other, "a circle"),
            Pair(picture, "a square"),
            Pair(picture, "a circle", "it is red"),
            Pair(picture, "a circle", "it is blue"),
        ]
    )
    assert len({round(answer["Yes"], 7) for answer in answers}) == 5


def test_a_batch_answers_as_each_pair_alone_in_order(model: EntailmentModel, picture: Image.Image) -> None:
    other = Image.new("RGB", (50, 50), "blue")
    pairs = [
        Pair(picture, "a circle"),
        Pair(other, "there is a much longer sentence about a square"),
        Pair(other, "a circle"),
        Pair(picture, "a circle", "a premise"),
        Pair(picture, "a square"),
    ]
    together = model.judge(pairs)
    for pair, answer in zip(pairs, together, strict=True):
        assert answer == pytest.approx(model.judge([pair])[0], abs=1e-5)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> EntailmentModel:
    """A model whose decoder has one wide head, so that prompts of up to 63 tokens are decoded together."""
    spec = SMALL["defaults-resnet18"]
    spec = replace(spec, network={**spec.network, "decoder_attention_heads": 1})
    return EntailmentModel.load(write_folder(tmp_path_factory.mktemp("wide"), spec))


@pytest.mark.parametrize("single_pass", [True, False])
def test_texts_of_all_lengths_answer_together_as_alone(
    wide: EntailmentModel, picture: Image.Image, single_pass: bool
) -> None:
    pairs = [Pair(picture, "a circle " * times) for times in (5, 1, 60, 2, 1, 50)]
    lengths = [len(build_source(wide.tokenizer, wide.task, pair.hypothesis, None)) for pair in pairs]
    assert [length < 64 for length in lengths] == [True, True, False, True, True, False], "of both kinds"
    wide.scorer.single_pass = single_pass
    try:
        together = wide.judge(pairs)
        alone = [wide.judge([pair])[0] for pair in pairs]
    finally:
        wide.scorer.single_pass = True
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert len({round(answer["Yes"], 6) for answer in together}) >= 4, "or any order would do"


def test_the_decoder_reads_its_weights_once_for_texts_of_different_lengths(
    wide: EntailmentModel, picture: Image.Image
) -> None:
    points: list[None] = []
    pairs = [Pair(picture, text) for text in ("a", "a circle", "a red circle")]
    wide.judge(pairs, lambda: points.append(None))
    config = wide.network.config
    assert len(points) == 6 + 3 * config.encoder_layers + config.decoder_layers


def test_padded_batches_equal_single_texts(model: EntailmentModel) -> None:
    network = model.network
    with torch.inference_mode():
        features = network.encoder.see(torch.randn(2, 3, 64, 64))
        tokens = torch.randint(5, 600, (2, 9))
        padding = torch.zeros(2, 9, dtype=torch.bool)
        padding[1, 6:] = True
        padded = network.decoder(tokens[:, :4], network.encoder(tokens, features, padding))[1]
        alone = network.decoder(tokens[1:, :4], network.encoder(tokens[1:, :6], features[1:]))[0]
    assert torch.allclose(padded, alone, atol=1e-5)


def test_the_order_of_text_lengths_changes_nothing(random_folder: Path, picture: Image.Image) -> None:
    short, long = Pair(picture, "a"), Pair(picture, "a circle " * 20)
    first, second = EntailmentModel.load(random_folder), EntailmentModel.load(random_folder)
    short_first = [first.judge([short]), first.judge([long])]
    long_first = [second.judge([long]), second.judge([short])]
    assert short_first == list(reversed(long_first))


def test_every_layer_is_a_point_to_stop_at(model: EntailmentModel, picture: Image.Image) -> None:
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    model.judge([Pair(picture, "a circle")], count)
    config = model.network.config
    assert calls == 6 + config.encoder_layers + config.decoder_layers  # resnet18 has six blocks

    for stop_at in range(1, calls + 1):
        left = stop_at

        def stop() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Stopped

        with pytest.raises(Stopped):
            model.judge([Pair(picture, "a circle")], stop)
    assert set(model.judge([Pair(picture, "a circle")])[0]) == {"Yes", "No", "Maybe"}


def test_a_text_that_cannot_be_judged_is_refused_before_anything_is_computed(
    model: EntailmentModel, picture: Image.Image
) -> None:
    def never() -> None:
        raise AssertionError("the computation began")

    with pytest.raises(TextError):
        model.judge([Pair(picture, "fine"), Pair(picture, "\ud800")], never)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(
    random_folder: Path, model: EntailmentModel, picture: Image.Image, dtype: torch.dtype
) -> None:
    pair = Pair(picture, "there is a red circle")
    half = EntailmentModel.load(random_folder, dtype=dtype)
    assert half.dtype == dtype
    assert half.judge([pair])[0] == pytest.approx(model.judge([pair])[0], abs=0.05)


def test_one_pass_scoring_equals_the_general_traverse(model: EntailmentModel, picture: Image.Image) -> None:
    pairs = [Pair(picture, text) for text in ("a red circle", "the circle is heavy")]
    assert model.scorer.single_pass
    quick = model.judge(pairs)
    model.scorer.single_pass = False
    try:
        general = model.judge(pairs)
    finally:
        model.scorer.single_pass = True
    for one, other in zip(quick, general, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize(
    ("answers", "single"),
    [([[5], [6], [7]], True), ([[5, 8], [6], [7]], True), ([[5, 8], [5, 9], [7]], False)],
)
def test_answers_that_share_their_first_token_need_the_traverse(
    answers: list[list[int]], single: bool
) -> None:
    assert AnswerScorer(answers, eos=2).single_pass is single
