"""The contracts of scripts: the names they import, and Gradio's client with the real service."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image, ImageDraw

from lab.instances.instance import ROOT, Instance
from page.words import LANGUAGES, Language, say

SECONDS = 400.0  # a bound for a broken run on a busy machine, never a measurement


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "red circle.png"
    image = Image.new("RGB", (240, 180), "white")
    ImageDraw.Draw(image).ellipse((70, 40, 170, 140), fill=(220, 38, 38))
    image.save(path)
    return path


def run(script: str, *arguments: str) -> Any:
    """The last line that a script in a Python of its own prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_names_judge_in_a_process_without_servers(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFA_MODEL", "demo")
    monkeypatch.setenv("OFA_TIMEOUT", "120")
    result = run(
        """
import json, psutil, sys
from PIL import Image
from service.contract.errors import InputError
from web_app import health_check, init_model, predict
before = health_check()["model"]
loaded = init_model()
answers = [predict(sys.argv[1], "there is a red circle"),
           predict(Image.open(sys.argv[1]), "there is a blue star")]
refused = []
for asked in [(None, "a circle"), (sys.argv[1], " "), ("/nowhere.png", "a circle"),
              (sys.argv[1], "a circle", "this model takes no premise")]:
    try:
        predict(*asked)
    except InputError as error:
        refused.append(error.code)
listening = [c for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
print(json.dumps([before, loaded, answers, refused, health_check()["model"], len(listening),
                  "gradio" in sys.modules]))
""",
        str(picture),
    )
    before, loaded, answers, refused, after, listening, gradio = result
    assert (before, loaded, after) == ("uninitialized", True, "loaded")
    assert [answer["label"] for answer in answers] == ["Yes", "No"]
    assert all(set(answer) == {"label", "score", "scores", "reason"} for answer in answers)
    assert all(sum(answer["scores"].values()) == pytest.approx(1) for answer in answers)
    assert refused == ["no_image", "no_text", "no_image", "premise_refused"]
    assert (listening, gradio) == (0, False)


def test_predict_loads_the_model_if_needed(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFA_MODEL", "demo")
    monkeypatch.setenv("OFA_TIMEOUT", "120")
    script = "import json, sys; from web_app import predict; print(json.dumps(predict(*sys.argv[1:])))"
    assert run(script, str(picture), "there is a red circle")["label"] == "Yes"


UNGUARDED = """
import json, psutil, sys
print("once")
from web_app import init_model, predict
init_model()
before = len(psutil.Process().children())
answer = predict(sys.argv[1], "there is a red circle")
readers = psutil.Process().children()
print(json.dumps([before, answer["label"], [one.pid for one in readers]]))
"""


def test_a_script_without_a_main_guard_is_run_once_and_leaves_no_process(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that read pictures are started by the first path, and never run the script again."""
    monkeypatch.setenv("OFA_MODEL", "demo")
    monkeypatch.setenv("OFA_TIMEOUT", "120")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, str(script), str(picture)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    once, result = done.stdout.splitlines()
    before, label, readers = json.loads(result)
    assert (once, before, label) == ("once", 0, "Yes")
    assert readers
    assert not [pid for pid in readers if psutil.pid_exists(pid)]


def ask(service: Instance, *arguments: Any, headers: Mapping[str, str] | None = None) -> Any:
    """What Gradio's client returns, or the error it raises, from the real service."""
    script = """
import json, sys
from gradio_client import Client, handle_file
base, headers, picture, *rest = json.loads(sys.argv[1])
client = Client(base, headers=headers, verbose=False)
try:
    print(json.dumps(client.predict(picture and handle_file(picture), *rest, api_name="/judge")))
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""
    return run(script, json.dumps([service.page, headers, *arguments]))


def test_gradios_client_gets_exactly_the_answer(running_service: Instance, picture: Path) -> None:
    answer = ask(running_service, str(picture), "there is a red circle", None)
    assert list(answer) == ["label", "score", "scores", "reason"]
    assert (answer["label"], answer["reason"]) == ("Yes", None)
    assert answer["score"] == answer["scores"]["Yes"] == max(answer["scores"].values())


def test_gradios_client_may_leave_the_premise_out(running_service: Instance, picture: Path) -> None:
    assert ask(running_service, str(picture), "there is a blue star")["label"] == "No"


@pytest.mark.parametrize("language", LANGUAGES)
def test_gradios_client_gets_the_input_error(running_service: Instance, language: Language) -> None:
    name, text = ask(running_service, None, "a circle", None, headers={"accept-language": language})
    assert (name, text) == ("AppError", say(language, "input.no_image"))


def test_gradios_client_cannot_make_the_service_fetch_an_address(running_service: Instance) -> None:
    name, text = ask(running_service, f"{running_service.health}/picture.png", "a circle", None)
    assert (name, text) == ("AppError", say("en", "input.image_elsewhere"))
