"""Keys of the API, in a real process with the demo model: who may ask, how much, and what the logs say."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from lab.instances.instance import ROOT, Instance
from page.words import LANGUAGES
from service.api_keys import make
from tests.doctor.test_surroundings import refused
from tests.fakes import PATIENCE

PICTURE = (ROOT / "models" / "demo" / "examples" / "existence.png").read_bytes()
TEXT = "there is a red circle"
FREE = ("/v2/health/live", "/v2/health/ready", "/openapi.json", "/docs")
CLOSED = (
    *(("GET", path) for path in ("/", "/v1/model", "/v2", "/v2/models/demo", "/v2/models/demo/ready")),
    *(("POST", path) for path in ("/v1/judge", "/v2/models/demo/infer", "/gradio_api/call/judge")),
    *(
        ("GET", path)
        for path in ("/nothing", "/gradio_api/info", "/config", "/ops/panel", "/docs/", "/docs/x")
    ),
)


class Keyed(NamedTuple):
    """A service with API keys and without a page password: it has no page."""

    instance: Instance
    file: Path
    shop: str
    few: str

    def client(self, key: str = "") -> httpx.Client:
        headers = {"x-api-key": key} if key else {}
        return httpx.Client(base_url=self.instance.page, timeout=PATIENCE, headers=headers)

    def judge(self, key: str, *texts: str) -> httpx.Response:
        with self.client(key) as client:
            return client.post("/v1/judge", data={"text": list(texts)}, files={"image": PICTURE})


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("keyed")
    file = folder / "keys"
    shop, few = make(file, "shop", 10_000, 100), make(file, "few", 3, 100)
    flags = ("--model", "demo", "--api-keys-file", str(file), "--timeout", "60")
    with Instance(folder / "run", *flags) as instance:
        instance.wait_healthy()
        yield Keyed(instance, file, shop, few)


# ---- who -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize("key", ["", "guessed"])
def test_without_the_key_nothing_is_answered(keyed: Keyed, method: str, path: str, key: str) -> None:
    with keyed.client(key) as client:
        answer = client.request(method, path)
    code = "wrong_key" if key else "no_key"
    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


@pytest.mark.parametrize("path", FREE)
def test_health_and_the_documentation_need_no_key(keyed: Keyed, path: str) -> None:
    with keyed.client() as client:
        assert client.get(path).status_code == 200


def test_a_denial_is_explained_in_the_callers_language(keyed: Keyed) -> None:
    with keyed.client() as client:
        answers = [client.get("/v1/model", headers={"accept-language": one}) for one in LANGUAGES]
    assert len({answer.json()["detail"] for answer in answers}) == len(LANGUAGES)


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_a_call_with_the_key_is_judged(keyed: Keyed, header: str) -> None:
    value = keyed.shop if header == "x-api-key" else f"Bearer {keyed.shop}"
    with keyed.client() as client:
        client.headers[header] = value
        answer = client.post("/v1/judge", data={"text": TEXT}, files={"image": PICTURE})
        assert client.get("/v1/model").status_code == 200
        assert client.get("/").status_code == 404, "there is no page"
    assert answer.status_code == 200
    assert answer.json()["results"][0]["reason"] is None


def test_a_large_upload_without_a_key_is_refused_before_it_is_kept(keyed: Keyed) -> None:
    with keyed.client() as client:
        answer = client.post("/v1/judge", data={"text": TEXT}, files={"image": bytes(3 << 20)})
    assert answer.status_code == 401


# ---- how much ------------------------------------------------------------------------------------------


def test_each_text_counts_and_retry_after_says_when_they_fit(keyed: Keyed) -> None:
    over = keyed.judge(keyed.few, *[TEXT] * 4)
    assert (over.status_code, over.json()["code"]) == (403, "texts_over_limit")
    assert "retry-after" not in over.headers
    assert keyed.judge(keyed.few, *[TEXT] * 3).status_code == 200
    used = keyed.judge(keyed.few, TEXT)
    assert (used.status_code, used.json()["code"]) == (429, "rate_limit")
    assert 0 < int(used.headers["retry-after"]) <= 60
    assert keyed.judge(keyed.shop, TEXT).status_code == 200, "another key has its own limit"


def test_the_protocol_counts_like_the_api(keyed: Keyed) -> None:
    key = make(keyed.file, "triton", 2, 1)
    texts = {"name": "text", "datatype": "BYTES", "shape": [3], "data": [TEXT] * 3}
    picture = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [""]}
    status, code = _until(
        lambda: _infer(keyed, key, {"inputs": [picture, texts]}), lambda answer: answer[0] != 401
    )
    assert (status, code) == (403, "texts_over_limit")


def _infer(keyed: Keyed, key: str, content: Any) -> tuple[int, str]:
    with keyed.client(key) as client:
        answer = client.post("/v2/models/demo/infer", json=content)
    return answer.status_code, answer.json().get("code", "")


# ---- reloading and logs ----------------------------------------------------------------------------------


def _until(ask: Any, wanted: Any) -> Any:
    """Ask until the answer is the wanted one; the file is looked at once a second."""
    give_up = time.monotonic() + PATIENCE
    while not wanted(answer := ask()) and time.monotonic() < give_up:
        time.sleep(0.05)
    return answer


def test_a_key_is_revoked_without_a_restart_and_an_invalid_file_changes_nothing(keyed: Keyed) -> None:
    before, added = keyed.file.read_text(), make(keyed.file, "late")

    def status() -> int:
        with keyed.client(added) as client:
            return client.get("/v1/model").status_code

    def outdated() -> bool:
        return "ofa_api_keys_outdated 1.0" in keyed.instance.get("/metrics")[1]

    assert _until(status, (200).__eq__) == 200
    keyed.file.chmod(0o644)
    assert _until(outdated, bool)
    assert status() == 200
    keyed.file.chmod(0o600)
    keyed.file.write_text(before)
    assert _until(status, (401).__eq__) == 401
    assert not outdated()
    events = [line.split(" | ")[3] for line in keyed.instance.log.splitlines() if "| API_KEYS |" in line]
    assert "OUTCOME=kept_old" in events
    assert events[-1] == "OUTCOME=loaded"


def test_the_logs_name_callers_and_hold_no_key(keyed: Keyed) -> None:
    keyed.judge(keyed.shop, TEXT)
    keyed.judge("a-wrong-key", TEXT)
    with keyed.client() as client:
        client.get("/v1/model", headers={"authorization": f"Bearer {keyed.few}x"})
    output = keyed.instance.log + keyed.instance.output
    assert "PAGE_OFF" in output
    assert re.search(r"REQUEST_START \| \S+ \| .* \| SOURCE=api \| KEY=shop\b", output)
    assert [key for key in (keyed.shop, keyed.few, "a-wrong-key") if key in output] == []


# ---- files that are refused at the start -------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["missing", "malformed", "readable"])
def test_a_file_that_is_not_right_ends_the_start(tmp_path: Path, fault: str) -> None:
    file = tmp_path / "keys"
    secret = make(file, "shop") if fault != "missing" else ""
    if fault == "malformed":
        file.write_text(f"shop {secret} 60 4\n")
    if fault == "readable":
        file.chmod(0o644)
    found = refused(tmp_path / "run", OFA_API_KEYS_FILE=str(file))
    assert found == ["api-keys-refused"]
    console = (tmp_path / "run" / "console.log").read_text()
    assert not secret or secret not in console


# ---- a page that is open ---------------------------------------------------------------------------------


def test_an_open_page_is_a_door_without_a_key_and_the_log_says_so(tmp_path: Path) -> None:
    make(tmp_path / "keys", "shop")
    flags = ("--model", "demo", "--api-keys-file", str(tmp_path / "keys"), "--page", "open")
    with Instance(tmp_path / "run", *flags) as instance:
        instance.wait_healthy()
        instance.wait_for("the page", lambda: "LISTENING | SERVER=page" in instance.log)
        with httpx.Client(base_url=instance.page, timeout=PATIENCE) as client:
            assert client.get("/").status_code == 200
            assert client.get("/v1/model").status_code == 401
            assert client.get("/v2").status_code == 401
        assert instance.judge(PICTURE, TEXT)["reason"] is None
        assert "WARNING  | PAGE_OPEN" in instance.log


def test_a_login_without_keys_closes_the_api_too(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("open sesame\n")
    flags = ("--model", "demo", "--page-password-file", str(tmp_path / "password"))
    with Instance(tmp_path / "run", *flags) as instance:
        instance.wait_for("the page", lambda: "LISTENING | SERVER=page" in instance.log)
        with httpx.Client(base_url=instance.page, timeout=PATIENCE) as client:
            for method, path in (("GET", "/v1/model"), ("POST", "/v1/judge"), ("GET", "/v2")):
                assert client.request(method, path).status_code == 401
            client.post("/login", json={"password": "open sesame"})
            assert client.get("/v1/model").status_code == 200
            crossed = client.post("/v1/judge", headers={"origin": "http://evil.example"})
            assert (crossed.status_code, json.loads(crossed.text)["code"]) == (403, "cross_origin")
            instance.wait_healthy()
            answer = client.post("/v1/judge", data={"text": TEXT}, files={"image": PICTURE})
            assert answer.status_code == 200
