"""Check ofa/ against ModelScope's recorded answers for the small random-weight folders.

The folders are generated from their seeds; `make parity ARGS=--write-goldens` writes the goldens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from lab.parity.compare import TOLERANCE
from lab.parity.folders import SMALL, FolderSpec, random_weights, write_folder
from lab.parity.goldens import GOLDENS, keys_digest, read_golden, read_pictures_golden, weights_digest
from lab.parity.pairs import PAIRS, pairs_for, pixel_digest, write_pictures
from lab.reference.child import digest
from ofa.checkpoint import IGNORED_KEYS, is_ignored
from ofa.config import NetworkConfig
from ofa.image import open_picture
from ofa.model import EntailmentModel
from ofa.network import OFA
from ofa.pair import Pair
from ofa.positions import token_buckets
from ofa.tokenizer import build_source

NAMES = tuple(SMALL)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder)
    return folder


@pytest.fixture(scope="session", params=NAMES)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, EntailmentModel]:
    """A folder's name and model, generated and loaded once."""
    folder = write_folder(tmp_path_factory.mktemp(request.param), SMALL[request.param])
    return request.param, EntailmentModel.load(folder)


def as_modelscope_reads(path: Path) -> Image.Image:
    """Open a picture as ModelScope does."""
    return open_picture(path, transparency="dropped")


def test_there_is_a_golden_for_every_small_folder_and_no_other() -> None:
    assert {path.stem for path in GOLDENS.glob("*.json")} == {*NAMES, "pictures"}


def test_the_goldens_would_detect_a_wrong_network() -> None:
    """Scores must vary with the pair and not be saturated, or they would hide mistakes."""
    for name in NAMES:
        scores = read_golden(name).scores
        assert len(scores) == len(PAIRS)
        for label in ("Yes", "No", "Maybe"):
            values = [score[label] for score in scores]
            assert max(values) - min(values) > 100 * TOLERANCE, f"{name}: {label} does not vary"
        assert max(max(score.values()) for score in scores) < 0.999, f"{name} is saturated"
        assert len({max(score, key=lambda label: score[label]) for score in scores}) > 1, name


def test_pictures_decode_to_the_pixels_of_the_goldens(pictures: Path) -> None:
    read = {name: pixel_digest(as_modelscope_reads(pictures / name)) for name in read_pictures_golden()}
    assert read == read_pictures_golden(), "another Pillow? the scores below then differ for that reason"


@pytest.mark.parametrize("together", [True, False], ids=["in a batch", "alone"])
def test_a_folder_is_answered_as_modelscope_answered(
    made: tuple[str, EntailmentModel], pictures: Path, together: bool
) -> None:
    """Some pairs are also judged alone; every third one for pictures of 480²."""
    name, model = made
    step = 3 if model.task.patch_image_size > 200 else 1
    known = list(zip(pairs_for(SMALL[name].prompt_slots), read_golden(name).scores, strict=True))
    known = known[::step] if together else known[2::9]
    questions = [Pair(as_modelscope_reads(pictures / p.picture), p.text, p.premise) for p, _ in known]
    ours = model.judge(questions) if together else [model.judge([question])[0] for question in questions]
    for (pair, theirs), mine in zip(known, ours, strict=True):
        assert mine == pytest.approx(theirs, abs=TOLERANCE, rel=0), f"{pair.picture}: {pair.text[:40]!r}"
        assert _best(mine) == _best(theirs)


def test_texts_become_the_same_token_ids(made: tuple[str, EntailmentModel]) -> None:
    name, model = made
    pairs = pairs_for(SMALL[name].prompt_slots)
    ours = [build_source(model.tokenizer, model.task, pair.text, pair.premise) for pair in pairs]
    assert ours == [list(tokens) for tokens in read_golden(name).tokens]


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_and_their_keys_are_those_modelscope_had(name: str) -> None:
    golden, spec = read_golden(name), SMALL[name]
    weights = random_weights(spec)
    assert weights_digest(weights) == golden.weights, "the generator gives other weights here"
    shapes = {key: list(value.shape) for key, value in weights.items()}
    if spec.stored_buckets:
        assert keys_digest(shapes) == golden.keys
    ours = _network_keys(spec)
    theirs = {key for key in shapes if not is_ignored(key)}
    assert ours == theirs


def test_stored_and_recomputed_buckets_are_modelscope_s() -> None:
    for name, spec in SMALL.items():
        golden = read_golden(name).buckets
        assert (
            digest(token_buckets(spec.network.get("token_bucket_size", 256), 1024))
            == (golden["encoder.token_rp_bucket"])
        )
        if spec.stored_buckets:
            stored = {key: digest(value) for key, value in random_weights(spec).items() if key in golden}
            assert stored == golden


def test_every_ignored_key_is_one_that_the_network_lacks() -> None:
    keys = {key for spec in SMALL.values() for key in _network_keys(spec)}
    assert not [key for key in keys for pattern in IGNORED_KEYS if re.fullmatch(pattern, key)]


def _network_keys(spec: FolderSpec) -> set[str]:
    with torch.device("meta"):
        return set(OFA(NetworkConfig.from_mapping(spec.config())).state_dict())


def _best(scores: Mapping[str, float]) -> str:
    return max(scores, key=lambda label: scores[label])
