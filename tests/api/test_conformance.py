"""The API and clients that others wrote, in an environment of their own: the schema holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.instances.instance import ROOT, Instance

pytestmark = pytest.mark.long

ENVIRONMENT = ROOT / "build" / "conformance"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PICTURE = ROOT / "models" / "demo" / "examples" / "existence.png"
SECONDS = 120  # of schemathesis; a bound, not a measurement
LIMIT = 900  # a bound for a broken run

TRITON = """
import sys
import numpy as np
from tritonclient import http

client = http.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("demo")
picture = open(sys.argv[2], "rb").read()
for binary in (True, False):
    image = http.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([picture], dtype=object), binary_data=True)
    text = http.InferInput("text", [2], "BYTES")
    text.set_data_from_numpy(np.array([b"there is a red circle", b"there is a blue star"], dtype=object),
                             binary_data=binary)
    outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in ("label", "scores")]
    result = client.infer("demo", [image, text], outputs=outputs)
    labels, scores = result.as_numpy("label"), result.as_numpy("scores")
    print([one.decode() if isinstance(one, bytes) else one for one in labels], scores.shape, scores.dtype)
"""

GENERATED = """
import base64, importlib, pathlib, sys
sys.path.insert(0, sys.argv[1])
(package,) = [path.parent.name for path in pathlib.Path(sys.argv[1]).glob("*/client.py")]
client = importlib.import_module(package).Client(base_url=sys.argv[2])
judge = importlib.import_module(f"{package}.api.default.judge_v1_judge_post")
body = importlib.import_module(f"{package}.models.judge_v1_judge_post_body").JudgeV1JudgePostBody
image = base64.b64encode(open(sys.argv[3], "rb").read()).decode()
texts = ["there is a red circle", "there is a blue star"]
answer = judge.sync(client=client, body=body(image=image, text=texts))
print([result.label.value for result in answer.results])
answer = judge.sync_detailed(client=client, body=body(image="", text=["a"]))
print(int(answer.status_code), answer.parsed.code.value)
"""


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of the environment's programs; made anew when its requirements have changed."""
    made, wanted = ENVIRONMENT / "installed.txt", REQUIREMENTS.read_text(encoding="utf-8")
    if not made.is_file() or made.read_text(encoding="utf-8") != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True, timeout=LIMIT)
        pip = [
            str(ENVIRONMENT / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "-r",
            str(REQUIREMENTS),
        ]
        subprocess.run(pip, check=True, timeout=LIMIT)
        made.write_text(wanted, encoding="utf-8")
    return ENVIRONMENT / "bin"


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_generated_request_gets_a_server_error_or_an_undocumented_answer(
    programs: Path, running_service: Instance, tmp_path: Path
) -> None:
    checks = ("not_a_server_error", "status_code_conformance", "content_type_conformance")
    before = running_service.log
    told = run(
        *(programs / "schemathesis", "run", f"{running_service.page}/openapi.json"),
        *("--phases", "coverage,fuzzing", "--seed", 1, "-n", 40, "--max-time", SECONDS),
        *("--checks", ",".join((*checks, "response_schema_conformance")), "--continue-on-failure"),
    )
    found = re.search(r"(\d+) generated, (\d+) passed", told)
    assert found, told
    assert int(found[1]) == int(found[2]) > 1000
    assert " | ERROR " not in running_service.log.removeprefix(before)


def test_tritons_client_judges_with_and_without_binary_tensors(
    programs: Path, running_service: Instance
) -> None:
    address = running_service.page.removeprefix("http://")
    lines = run(programs / "python", "-c", TRITON, address, PICTURE).splitlines()
    assert lines == ["['Yes', 'No'] (2, 3) float32"] * 2


def test_a_client_generated_from_the_schema_judges(
    programs: Path, running_service: Instance, tmp_path: Path
) -> None:
    schema, folder = tmp_path / "openapi.json", tmp_path / "client"
    document = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    # With two kinds of body, openapi-python-client 0.29.1 writes a name that it does not import.
    del document["paths"]["/v1/judge"]["post"]["requestBody"]["content"]["multipart/form-data"]
    schema.write_text(json.dumps(document))
    run(programs / "openapi-python-client", "generate", "--path", schema, "--output-path", folder)
    lines = run(programs / "python", "-c", GENERATED, folder, running_service.page, PICTURE).splitlines()
    assert lines == ["['Yes', 'No']", "422 not_an_image"]
