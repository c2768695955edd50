"""The Open Inference Protocol: health, metadata, infer with tensors in JSON and raw."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

import httpx
import pytest

from service.contract.calibration import Calibration
from service.contract.causes import Refusal
from service.contract.request import Verdict
from service.contract.status import Activity, CalibrationState, Phase
from tests.api.serving import ENCODED, PICTURE, ScriptedApplication, client, code, picture, serving
from tests.web.application import READY, SCORES

INFER = "/v2/models/demo/infer"
OTHER = picture(size=(8, 8))


def tensor(name: str, *data: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [len(data)], "data": list(data), **more}


def packed(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(one)) + one for one in elements)


def raw(
    *tensors: tuple[str, bytes, int], more: dict[str, Any] | None = None, extra: bytes = b"", shift: int = 0
) -> dict[str, Any]:
    """Return the arguments of a binary request for tensors of (name, data, elements)."""
    inputs = [
        {
            "name": name,
            "datatype": "BYTES",
            "shape": [count],
            "parameters": {"binary_data_size": len(data)},
        }
        for name, data, count in tensors
    ]
    head = json.dumps({"inputs": inputs, **(more or {})}).encode()
    headers = {"inference-header-content-length": str(len(head) + shift)}
    return {"content": head + b"".join(data for _, data, _ in tensors) + extra, "headers": headers}


def test_health_and_metadata(api: httpx.Client) -> None:
    assert "binary_tensor_data" in api.get("/v2").json()["extensions"]
    assert api.get("/v2/health/live").status_code == 200
    assert api.get("/v2/health/ready").status_code == 200
    assert api.get("/v2/models/demo/ready").status_code == 200
    about = api.get("/v2/models/demo").json()
    assert about["name"] == "demo"
    assert [(one["name"], one["datatype"]) for one in about["inputs"]][:2] == [
        ("image", "BYTES"),
        ("text", "BYTES"),
    ]
    assert [(one["name"], one["datatype"]) for one in about["outputs"]] == [
        ("label", "BYTES"),
        ("scores", "FP32"),
    ]
    for path in ("/v2/models/other", "/v2/models/other/ready"):
        assert code(api.get(path)) == (404, "not_found")
    assert code(api.post("/v2/models/other/infer", json={})) == (404, "not_found")


@pytest.mark.parametrize(
    "snapshot",
    [
        replace(READY, phase=Phase.LOADING),
        replace(READY, activity=Activity(refusal=Refusal.QUEUE_FULL)),
    ],
    ids=["loading", "full"],
)
def test_a_server_that_would_refuse_is_live_but_not_ready(snapshot: Any) -> None:
    with serving(ScriptedApplication(snapshot=snapshot)) as front, client(front) as api:
        assert api.get("/v2/health/live").status_code == 200
        assert api.get("/v2/health/ready").status_code == 503
        assert api.get("/v2/models/demo/ready").status_code == 503


def test_a_model_may_have_slashes_in_its_name() -> None:
    snapshot = replace(READY, model="iic/some_model")
    with serving(ScriptedApplication(snapshot=snapshot)) as front, client(front) as api:
        assert api.get("/v2/models/iic/some_model").json()["name"] == "iic/some_model"
        assert api.get("/v2/models/iic/some_model/ready").status_code == 200
        content = {"inputs": [tensor("image", ENCODED), tensor("text", "a")]}
        assert api.post("/v2/models/iic/some_model/infer", json=content).status_code == 200


def test_one_picture_and_several_texts_are_one_call(api: httpx.Client, scripted: ScriptedApplication) -> None:
    inputs = [tensor("text", "a circle", "a square"), tensor("image", ENCODED), tensor("premise", "a shape")]
    answer = api.post(INFER, json={"id": "case-1", "inputs": inputs})
    content = answer.json()
    assert (content["model_name"], content["id"]) == ("demo", "case-1")
    assert content["outputs"] == [
        {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["Yes", "Yes"]},
        {"name": "scores", "datatype": "FP32", "shape": [2, 3], "data": [0.9, 0.06, 0.04] * 2},
    ]
    (seen,) = scripted.seen
    assert (seen["image"], seen["texts"], seen["premise"]) == (PICTURE, ["a circle", "a square"], "a shape")


def test_several_pictures_are_judged_each_with_its_text(
    api: httpx.Client, scripted: ScriptedApplication
) -> None:
    scripted.answers = {
        "second": Verdict.of({"Yes": 0.1, "No": 0.8, "Maybe": 0.1}, duration=0.1, device="cpu")
    }
    sent = raw(("image", packed(PICTURE, OTHER), 2), ("text", packed(b"first", b"second"), 2))
    answer = api.post(INFER, **sent)
    assert answer.json()["outputs"][0]["data"] == ["Yes", "No"]
    assert {(one["image"], *one["texts"]) for one in scripted.seen} == {(PICTURE, "first"), (OTHER, "second")}


@pytest.mark.parametrize("whole", [True, False], ids=["request", "outputs"])
def test_outputs_are_raw_where_they_are_asked_for(api: httpx.Client, whole: bool) -> None:
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in ("scores", "label")]
    more = {"parameters": {"binary_data_output": True}} if whole else {"outputs": outputs}
    sent = raw(("image", packed(PICTURE), 1), ("text", packed("ein Kreis é".encode()), 1), more=more)
    answer = api.post(INFER, **sent)
    size = int(answer.headers["inference-header-content-length"])
    described = {one["name"]: one for one in json.loads(answer.content[:size])["outputs"]}
    assert list(described) == (["label", "scores"] if whole else ["scores", "label"])
    assert all("data" not in one for one in described.values())
    left, data = answer.content[size:], {}
    for name, one in described.items():
        length = one["parameters"]["binary_data_size"]
        data[name], left = left[:length], left[length:]
    assert left == b""
    assert data["label"] == packed(b"Yes")
    assert struct.unpack("<3f", data["scores"]) == pytest.approx((0.9, 0.06, 0.04))


def test_a_calibrated_model_has_two_more_outputs() -> None:
    calibration = Calibration(2.0, 0.9, 0.6, "0" * 64)
    snapshot = replace(READY, calibration=CalibrationState("used", calibration=calibration))
    verdict = Verdict.of(SCORES, duration=0.1, device="cpu", calibration=calibration)
    content: dict[str, Any] = {"inputs": [tensor("image", ENCODED), tensor("text", "a")]}
    with serving(ScriptedApplication({"a": verdict}, snapshot)) as front, client(front) as api:
        about = api.get("/v2/models/demo").json()["outputs"]
        outputs = api.post(INFER, json=content).json()["outputs"]
        one = api.post(INFER, json=content | {"outputs": [{"name": "decision"}]}).json()["outputs"]
    assert [one["name"] for one in about] == ["label", "scores", "calibrated", "decision"]
    assert [one["name"] for one in outputs] == ["label", "scores", "calibrated", "decision"]
    assert [(one["datatype"], one["shape"]) for one in outputs[2:]] == [("FP32", [1, 3]), ("BYTES", [1])]
    assert outputs[2]["data"] == list(calibration.calibrated(SCORES).values())
    assert one == outputs[3:]
    assert one[0]["data"] == ["review"]


def test_without_a_calibration_its_outputs_are_unknown_and_left_out(api: httpx.Client) -> None:
    content: dict[str, Any] = {"inputs": [tensor("image", ENCODED), tensor("text", "a")]}
    wanted = content | {"outputs": [{"name": "decision"}]}
    assert code(api.post(INFER, json=wanted)) == (422, "invalid_field")
    # The model was reloaded without its calibration while it computed.
    state = CalibrationState("used", calibration=Calibration(2.0, 0.9, 0.6, "0" * 64))
    scripted = ScriptedApplication(snapshot=replace(READY, calibration=state))
    with serving(scripted) as front, client(front) as calibrated:
        outputs = calibrated.post(INFER, json=content).json()["outputs"]
    assert [each["name"] for each in outputs] == ["label", "scores"]


def test_one_output_may_be_asked_for_in_json(api: httpx.Client) -> None:
    more = {"parameters": {"binary_data_output": True}}
    outputs = [{"name": "label", "parameters": {"binary_data": False}}]
    content = {"inputs": [tensor("image", ENCODED), tensor("text", "a")], "outputs": outputs, **more}
    answer = api.post(INFER, json=content).json()
    assert [(one["name"], one["data"]) for one in answer["outputs"]] == [("label", ["Yes"])]


IMAGE = tensor("image", ENCODED)
TEXT = tensor("text", "a")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, (422, "invalid_field")),
        ({"inputs": {}}, (422, "invalid_field")),
        ({"inputs": [7]}, (422, "invalid_field")),
        ({"inputs": [TEXT]}, (422, "no_image")),
        ({"inputs": [IMAGE]}, (422, "no_text")),
        ({"inputs": [IMAGE, tensor("text")]}, (422, "no_text")),
        ({"inputs": [IMAGE, TEXT, TEXT]}, (422, "invalid_field")),
        ({"inputs": [IMAGE, TEXT, tensor("more", "a")]}, (422, "invalid_field")),
        ({"inputs": [IMAGE, {**TEXT, "name": ["text"]}]}, (422, "invalid_field")),
        ({"inputs": [IMAGE, {**TEXT, "datatype": "FP32"}]}, (422, "invalid_field")),
        ({"inputs": [IMAGE, {**TEXT, "shape": [2]}]}, (422, "invalid_field")),
        ({"inputs": [IMAGE, {**TEXT, "shape": "[1]"}]}, (422, "invalid_field")),
        ({"inputs": [IMAGE, {**TEXT, "data": [1]}]}, (422, "invalid_field")),
        ({"inputs": [IMAGE, {**TEXT, "data": "a"}]}, (422, "invalid_field")),
        ({"inputs": [IMAGE, {**TEXT, "parameters": []}]}, (422, "invalid_field")),
        ({"inputs": [{**IMAGE, "data": ["http://pictures.example"]}, TEXT]}, (422, "invalid_field")),
        (
            {"inputs": [tensor("image", ENCODED, ENCODED), tensor("text", "a", "b", "c")]},
            (422, "invalid_field"),
        ),
        ({"inputs": [IMAGE, TEXT, tensor("premise", "a", "b")]}, (422, "invalid_field")),
        ({"inputs": [IMAGE, tensor("text", *["a"] * 33)]}, (422, "too_many_texts")),
        ({"inputs": [IMAGE, TEXT], "outputs": []}, (422, "invalid_field")),
        ({"inputs": [IMAGE, TEXT], "outputs": [{"name": "other"}]}, (422, "invalid_field")),
        ({"inputs": [IMAGE, TEXT], "id": "a b"}, (422, "invalid_id")),
        ({"inputs": [IMAGE, TEXT], "parameters": 7}, (422, "invalid_field")),
    ],
    ids=range(23),
)
def test_a_bad_request_is_refused_in_both_forms(
    api: httpx.Client, content: dict[str, Any], expected: tuple[int, str]
) -> None:
    answer = api.post(INFER, json=content)
    assert code(answer) == expected
    assert answer.json()["error"], "the protocol's own field"


@pytest.mark.parametrize(
    "sent",
    [
        raw(("image", packed(PICTURE), 1), ("text", packed(b"a"), 1), shift=10**6),
        raw(("image", packed(PICTURE), 1), ("text", packed(b"a"), 1), shift=-1),
        raw(("image", packed(PICTURE), 1), ("text", packed(b"a"), 1), extra=b"x"),
        raw(("image", packed(PICTURE), 1), ("text", packed(b"a")[:-1], 1)),
        raw(("image", packed(PICTURE), 1), ("text", b"\xff\xff\xff\xff", 1)),
        raw(("image", packed(PICTURE), 1), ("text", packed(*[b""] * 1000), 1000)),
        {"content": b"{}", "headers": {"inference-header-content-length": "-2"}},
        {"content": b"{}", "headers": {"inference-header-content-length": "two"}},
        {"content": b"{}", "headers": {"inference-header-content-length": "9" * 40}},
    ],
    ids=range(9),
)
def test_bad_raw_data_is_refused(api: httpx.Client, sent: dict[str, Any]) -> None:
    assert code(api.post(INFER, **sent)) == (400, "malformed")


def test_a_form_of_another_site_is_refused(api: httpx.Client) -> None:
    for kind in ("text/plain", "multipart/form-data; boundary=XX", "application/x-www-form-urlencoded"):
        answer = api.post(INFER, content=b"{}", headers={"content-type": kind})
        assert code(answer) == (415, "unsupported_media_type")
    answer = api.post(INFER, content=b"{}", headers={"origin": "http://other.example"})
    assert code(answer) == (415, "unsupported_media_type")


def test_the_pictures_that_cannot_be_judged_are_listed(make: Any) -> None:
    application = make()
    application.supervisor.load()
    name = application.snapshot().model
    sent = raw(("image", packed(PICTURE, b"x", PICTURE[:60]), 3), ("text", packed(b"a", b"b", b"c"), 3))
    with serving(application) as front, client(front) as api:
        answer = api.post(f"/v2/models/{name}/infer", **sent)
    assert code(answer) == (422, "not_an_image")
    assert answer.json()["errors"] == [
        {"index": 1, "code": "not_an_image"},
        {"index": 2, "code": "image_truncated"},
    ]


def test_a_text_in_another_language_is_refused(make: Any) -> None:
    application = make()
    application.supervisor.load()
    name = application.snapshot().model
    sent = raw(("image", packed(PICTURE), 1), ("text", packed(b"a dog", "一只狗".encode()), 2))
    with serving(application) as front, client(front) as api:
        answer = api.post(f"/v2/models/{name}/infer", **sent)
    assert code(answer) == (422, "language")
    assert answer.json()["errors"] == [{"index": 1, "code": "language"}]
