"""The pod of deploy/kubernetes with the demo model, under a simulated kubelet."""

from __future__ import annotations

import copy
import os
from functools import cache
from pathlib import Path
from typing import Any

from lab.faults.scenes import Scene
from lab.instances.ports import free_ports
from lab.kubernetes.container import Container
from lab.kubernetes.kubelet import Kubelet
from lab.kubernetes.manifests import FOLDER, build

LAUNCHER = "lab/faults/inside.py"


@cache
def objects(folder: str = "base") -> list[dict[str, Any]]:
    """The objects of an overlay."""
    return build(FOLDER / folder)


def one(kind: str, name: str = "visual-entailment", folder: str = "base") -> dict[str, Any]:
    (found,) = (o for o in objects(folder) if (o["kind"], o["metadata"]["name"]) == (kind, name))
    return found


def pod_spec(folder: str = "base") -> dict[str, Any]:
    spec: dict[str, Any] = one("Deployment", folder=folder)["spec"]["template"]["spec"]
    return spec


class Pod:
    """What the faults of lab/faults need of a service. With ``locked``, secrets are required as in the
    manifest; otherwise nobody needs a key or a login. ``without`` leaves out a volume."""

    def __init__(
        self,
        scene: Scene,
        *,
        locked: bool = False,
        launcher: tuple[str, ...] = (LAUNCHER,),
        without: str = "",
    ) -> None:
        self.run_dir = scene.run_dir
        self.port, self.health_port = free_ports(2)
        self.page = f"http://127.0.0.1:{self.port}"
        self.health = f"http://127.0.0.1:{self.health_port}"
        volumes = {name: scene.folder / name for name in ("tmp", "models", "secrets")}
        for name in ("cache", "model"):  # where a scene puts the files that it serves or damages
            if (scene.folder / name).exists():
                volumes["models"] = scene.folder / name
        variables: dict[str, str | None] = {
            "OFA_MODEL": "demo",
            "OFA_THREADS": "1",
            "OFA_HOST": "127.0.0.1",
            "OFA_HEALTH_HOST": "127.0.0.1",
            "OFA_PORT": str(self.port),
            "OFA_HEALTH_PORT": str(self.health_port),
            **{name: str(value) for name, value in scene.settings.items()},
        }
        if not locked:
            variables |= dict.fromkeys(
                ("OFA_API_KEYS_FILE", "OFA_PAGE_PASSWORD_FILE", "OFA_OPS_PASSWORD_FILE")
            )
        spec = copy.deepcopy(pod_spec())
        for part, key in ((spec, "volumes"), (spec["containers"][0], "volumeMounts")):
            part[key] = [volume for volume in part[key] if volume["name"] != without]
        self.container = Container(
            spec,
            scene.folder,
            {"run": self.run_dir, **volumes},
            changes=variables,
            launcher=launcher,
            arguments=[_inside(argument, volumes["models"]) for argument in scene.arguments],
        )
        self.kubelet = Kubelet(spec, self.container, {"page": self.page, "health": self.health})

    def __enter__(self) -> Pod:
        self.kubelet.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kubelet.__exit__(*exception)

    @property
    def pid(self) -> int:
        return self.container.pid

    @property
    def log(self) -> str:
        path = self.run_dir / "web_app.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def seen(self) -> str:
        """For a failed test."""
        return "\n".join([*self.kubelet.words(), self.container.output[-3000:]])


def _inside(argument: str, models: Path) -> str:
    """The path in the container of a path on this machine."""
    return argument.replace(str(models), "/data/models")


def write_secrets(folder: Path, **content: str) -> None:
    """Write a Secret as the kubelet mounts it: links to files of root that the pod's group may read."""
    (folder / "..2026").mkdir(parents=True)
    (folder / "..data").symlink_to("..2026")
    for name, text in content.items():
        (folder / "..2026" / name).write_text(text)
        os.chmod(folder / "..2026" / name, 0o440)
        (folder / name).symlink_to(f"..data/{name}")
