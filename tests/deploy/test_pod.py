"""The pod of the Deployment, run as the manifest says: read-only root, user, no capabilities, secrets."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from lab.faults.scenes import Scene
from lab.faults.users import red_circle
from lab.instances.guarded import wait_for
from service.api_keys import make
from tests.batch.served import zipped
from tests.marks import as_root
from tests.pods import Pod, pod_spec, write_secrets

pytestmark = as_root


def post(url: str, key: str, file: tuple[str, bytes], **fields: str) -> tuple[int, dict[str, Any]]:
    """Post a form with a file, given by its field's name and its content; return status and body."""
    mark = b"--a-boundary-of-the-tests"
    head = 'Content-Disposition: form-data; name="{}"{}\r\n\r\n'
    parts = [head.format(file[0], '; filename="list.zip"').encode() + file[1]]
    parts += [(head.format(name, "") + text).encode() for name, text in fields.items()]
    body = b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"
    headers = {
        "Content-Type": f"multipart/form-data; boundary={mark.decode()[2:]}",
        "Authorization": f"Bearer {key}",
    }
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.long
def test_it_serves_with_nothing_but_its_volumes_writable(tmp_path: Path) -> None:
    key = make(tmp_path / "keys", "tests")
    write_secrets(
        tmp_path / "secrets",
        api_keys=(tmp_path / "keys").read_text(),
        page_password="the password of the page\n",
        ops_password="the password of operations\n",
    )
    with Pod(Scene(tmp_path, arguments=()), locked=True, launcher=()) as pod:
        wait_for("readiness", lambda: pod.kubelet.ready, pod.seen)
        status = Path(f"/proc/{pod.pid}/status").read_text()
        (uid,) = {line.split()[1] for line in status.splitlines() if line.startswith("Uid:")}
        assert int(uid) == pod_spec()["securityContext"]["runAsUser"]
        capabilities = {line.split()[1] for line in status.splitlines() if line.startswith("Cap")}
        assert capabilities == {"0" * 16}
        assert writable_mounts(pod.pid) == {"/data/run", "/data/models", "/tmp"}

        picture = ("image", red_circle())
        judged = post(f"{pod.page}/v1/judge", key, picture, text="there is a red circle")
        assert (judged[0], judged[1]["results"][0]["label"]) == (200, "Yes")
        assert post(f"{pod.page}/v1/judge", "wrong", picture, text="a circle")[0] == 401
        batch = ("file", zipped([("1.png", "a circle")]))
        assert post(f"{pod.page}/v1/batches", key, batch)[0] == 202
        pod.kubelet.delete()
        pod.kubelet.wait_deleted()
    assert pod.kubelet.words()[-1] == "exited 0"
    assert "KILL" not in pod.kubelet.words()
    assert pod.kubelet.restarts == 0


def writable_mounts(pid: int) -> set[str]:
    """Return the mount points of a process that are on a disk or in memory and not read-only."""
    found = set()
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        fields, _, system = line.partition(" - ")
        path, flags = fields.split()[4:6]
        kernel = path.startswith(("/proc", "/dev", "/sys"))
        if not kernel and "ro" not in [*flags.split(","), *system.split()[2].split(",")]:
            found.add(path)
    return found


@pytest.mark.long
@pytest.mark.parametrize("name", ["run", "tmp"])
def test_it_does_not_start_without_a_volume(name: str, tmp_path: Path) -> None:
    with Pod(Scene(tmp_path, arguments=()), without=name) as pod:
        wait_for("an exit", lambda: any(event.what == "exited" for event in pod.kubelet.events), pod.seen)
    codes = [event.detail for event in pod.kubelet.events if event.what == "exited"]
    assert codes[0] == {"run": "78", "tmp": "1"}[name]
