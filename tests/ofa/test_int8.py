"""Products in int8: exact sums of rounded values, requests that do not depend on each other, labels kept."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lab.parity.folders import SMALL, write_folder
from ofa import int8
from ofa.int8 import LARGEST, Int8Linear
from ofa.int8_check import compare, fitting, make, quantized
from ofa.int8_file import Check, Int8File
from ofa.model import EntailmentModel
from ofa.precision import MARGINS, GuardedModel, Step, best_dtype
from ofa.quantize import int8_state
from ofa.samples import mixed_pairs

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
pytestmark = pytest.mark.skipif(not int8.supported(), reason="the processor does not multiply int8")


@pytest.fixture(scope="module")
def exact() -> EntailmentModel:
    return EntailmentModel.load(DEMO)


@pytest.fixture(scope="module")
def base() -> EntailmentModel:
    return EntailmentModel.load(DEMO, dtype=best_dtype("cpu"))


@pytest.fixture(scope="module")
def state(exact: EntailmentModel) -> dict[str, Tensor]:
    return quantized(exact)


def product(weight: Tensor, bias: Tensor) -> Int8Linear:
    step = weight.abs().amax(1) / LARGEST
    rounded = (weight / step[:, None]).round().to(torch.int8)
    return Int8Linear({"one.weight": rounded, "one.step": step, "one.bias": bias}, "one")


@torch.inference_mode()
def test_sums_of_rounded_values_are_exact() -> None:
    torch.manual_seed(1)
    x, weight, bias = torch.randn(5, 7, 96), torch.randn(33, 96), torch.randn(33)
    steps, weight_steps = x.abs().max() / LARGEST, weight.abs().amax(1) / LARGEST
    rounded = (x / steps).round().double() @ (weight / weight_steps[:, None]).round().double().T
    expected = rounded * steps * weight_steps + bias
    assert torch.allclose(product(weight, bias)(x).double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("largest", [1.0, 127.0, 1e-3, 3e4, 1.0078125, 254.0])
@torch.inference_mode()
def test_the_largest_values_do_not_wrap(largest: float) -> None:
    """The sign of a value at the end of the range would change."""
    x = torch.tensor([[-largest, largest, largest * 0.99, -largest * 0.99]]).bfloat16()
    result = product(torch.eye(4), torch.zeros(4))(x).float()
    assert torch.allclose(result, x.float(), atol=0, rtol=0.01)


@torch.inference_mode()
def test_zeros_stay_zeros() -> None:
    assert not product(torch.randn(3, 8), torch.zeros(3))(torch.zeros(2, 8)).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@torch.inference_mode()
def test_values_that_are_not_finite_stay_so(value: float) -> None:
    """A finite number in their place would hide broken weights from the health probe."""
    x = torch.ones(2, 3, 8)
    x[1, 2, 3] = value
    assert not product(torch.randn(3, 8), torch.zeros(3))(x)[1, 2].isfinite().any()


def test_weights_that_are_not_finite_do_not_pass(base: EntailmentModel, state: dict[str, Tensor]) -> None:
    broken = {**state, "encoder.layers.0.fc1.step": state["encoder.layers.0.fc1.step"] * float("nan")}
    low = base.in_int8(broken)
    pairs = fitting(mixed_pairs(4, 11), base.task)
    assert all(math.isnan(value) for scores in low.judge(pairs) for value in scores.values())
    assert not compare(base, low, pairs).passed


def test_what_is_not_int8_is_shared(base: EntailmentModel, state: dict[str, Tensor]) -> None:
    low = base.in_int8(state).network
    assert low.decoder is base.network.decoder
    assert low.encoder.embed_tokens is base.network.encoder.embed_tokens
    assert not any(isinstance(module, Int8Linear) for module in base.network.modules())


def test_a_request_does_not_depend_on_its_neighbours(base: EntailmentModel, state: dict[str, Tensor]) -> None:
    low = base.in_int8(state)
    pairs = fitting(mixed_pairs(8, 3, per_picture=2), base.task)
    alone = [low.judge([pair])[0] for pair in pairs]
    together = low.judge(pairs)
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=2e-3)  # the decoder, in bf16, decodes them together


@pytest.mark.parametrize("name", SMALL)
def test_the_guard_keeps_the_labels_of_every_configuration(name: str, tmp_path: Path) -> None:
    exact = EntailmentModel.load(write_folder(tmp_path / name, SMALL[name]))
    base = EntailmentModel.load(tmp_path / name, dtype=best_dtype("cpu"))
    low = base.in_int8(quantized(exact))
    pairs = fitting(mixed_pairs(24, 5), exact.task)
    steps = [Step("int8", MARGINS["int8"], lambda: low), Step("fp32", 0.0, lambda: exact)]
    guarded = [max(one, key=lambda label: one[label]) for one in GuardedModel(steps).judge(pairs)]
    assert guarded == [max(one, key=lambda label: one[label]) for one in exact.judge(pairs)]
    assert not compare(exact, low, pairs).changed


def test_channels_with_large_values_do_not_cost_precision(base: EntailmentModel) -> None:
    """The same function, with one channel of each norm 64 times as large and its weights as small."""
    pairs = fitting(mixed_pairs(8, 7, per_picture=2), base.task)

    def error(outliers: bool) -> float:
        exact = EntailmentModel.load(DEMO)
        dice = random.Random(4)
        for layer in exact.network.encoder.layers if outliers else ():
            channel = dice.randrange(exact.network.config.d_model)
            norm, into = layer.get_submodule("final_layer_norm"), layer.get_submodule("fc1")
            norm.get_parameter("weight").data[channel] *= 64
            norm.get_parameter("bias").data[channel] *= 64
            into.get_parameter("weight").data[:, channel] /= 64
        with torch.inference_mode():
            state = int8_state(exact, pairs)
        low = exact.in_int8(state)
        errors = [
            max(abs(a[name] - b[name]) for name in a)
            for a, b in zip(exact.judge(pairs), low.judge(pairs), strict=True)
        ]
        return sum(errors)

    assert error(outliers=True) < 3 * error(outliers=False)


def test_weights_are_kept_with_their_check(tmp_path: Path, base: EntailmentModel) -> None:
    check = make(DEMO, tmp_path, pairs=200)
    assert check is not None
    assert check.passed
    file = Int8File(DEMO, tmp_path)
    assert file.check() == check
    state = file.read_state()
    assert state is not None
    pairs = fitting(mixed_pairs(4, 9), base.task)
    fresh = base.in_int8(quantized(EntailmentModel.load(DEMO)))
    assert base.in_int8(state).judge(pairs) == fresh.judge(pairs)


def test_broken_weights_do_not_pass(
    exact: EntailmentModel, base: EntailmentModel, state: dict[str, Tensor]
) -> None:
    broken = {name: value * 4 if name.endswith("fc2.step") else value for name, value in state.items()}
    assert not compare(exact, base.in_int8(broken), fitting(mixed_pairs(64, 11), exact.task)).passed


@pytest.mark.parametrize(
    ("check", "passed"),
    [
        (Check(200, 0, 3, 0.2, 0.5, "amx"), True),
        (Check(200, 1, 3, 0.2, 0.5, "amx"), False),
        (Check(200, 0, 3, 0.3, 0.5, "amx"), False),  # no factor to spare
        (Check(200, 0, 2, 0.2, 0.5, "amx"), False),  # too little evidence
        (Check(0, 0, 0, 0.0, 0.5, "amx"), False),
    ],
)
def test_what_passes(check: Check, passed: bool) -> None:
    assert check.passed is passed


def test_a_check_of_another_processor_or_margin_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(DEMO, tmp_path, pairs=0)
    file = Int8File(DEMO, tmp_path)
    assert file.check() is not None
    with monkeypatch.context() as other:
        other.setattr("ofa.processor.kind", lambda: "another")
        assert file.check() is None
    monkeypatch.setattr("ofa.int8_file.MARGINS", {"int8": 0.1})
    assert file.check() is None
