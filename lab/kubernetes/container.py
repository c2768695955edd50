"""Run the pod's container from its manifest, as a container runtime does: read-only root, volumes, user, no
capabilities, environment of image and manifest.

There is no image: the root file system is assembled from this machine's system folders, its Python and the
checkout, in a mount namespace. Needs root. Not simulated: seccomp, cgroup limits, the network.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lab import ROOT

DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"
SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/sys")

Object = dict[str, Any]


def image_environment(dockerfile: Path = DOCKERFILE) -> dict[str, str]:
    """Return the variables that a Dockerfile sets."""
    lines = re.findall(r"^ENV (.+)$", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(word.split("=", 1) for line in lines for word in shlex.split(line))


def image_home() -> str:
    """Return the home of the user that the Dockerfile creates, which a runtime reads from /etc/passwd."""
    (name,) = re.findall(
        r"useradd --create-home .*?(\w+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE
    )
    return str(Path("/home", name))


def image_folder() -> str:
    """Return the working directory that the Dockerfile sets."""
    (folder,) = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    return str(folder)


def environment(container: Object) -> dict[str, str]:
    """Return the variables of the manifest; those from a resource are resolved."""
    found = {}
    for variable in container.get("env", []):
        if "value" in variable:
            found[variable["name"]] = variable["value"]
        else:
            kind, resource = variable["valueFrom"]["resourceFieldRef"]["resource"].split(".")
            found[variable["name"]] = container["resources"][kind][resource]
    return found


class Container:
    """The only container of a pod, started any number of times.

    ``volumes`` are the folders behind the volumes, by name. ``changes`` are environment variables that differ
    from the manifest, None to leave one out. ``launcher`` comes between the interpreter and its program,
    ``arguments`` come last. ``enter`` is a command that runs its arguments in the pod's network.
    """

    def __init__(
        self,
        pod: Object,
        folder: Path,
        volumes: Mapping[str, Path],
        *,
        changes: Mapping[str, str | None],
        launcher: Sequence[str] = (),
        arguments: Sequence[str] = (),
        enter: Sequence[str] = (),
    ) -> None:
        (self._spec,) = pod["containers"]
        self._pod = pod
        self._root = folder / "root"
        self._output = folder / "output.txt"
        self._volumes = volumes
        merged = {
            "HOME": image_home(),
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            **image_environment(),
            **environment(self._spec),
            **changes,
        }
        self._environment = {name: value for name, value in merged.items() if value is not None}
        interpreter, *rest = self._spec["command"]
        self._command = [interpreter, *launcher, *rest, *arguments]
        self._enter = enter
        self._process: subprocess.Popen[bytes] | None = None
        self._root.mkdir(parents=True)
        for volume in pod["volumes"]:
            self._own(volumes[volume["name"]], "emptyDir" in volume)

    def _own(self, folder: Path, empty_dir: bool) -> None:
        """Give a volume to the pod's group, as the kubelet does for ``fsGroup``."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, -1, self._pod["securityContext"]["fsGroup"], follow_symlinks=False)
        folder.chmod(0o2777 if empty_dir else 0o2775)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def output(self) -> str:
        """The console output of all starts."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        unshare = ["unshare", "--mount", "--propagation", "private"]
        command = [*self._enter, *unshare, "sh", "-ec", self._script()]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the container's process; none if it has exited."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, seconds: float | None = None) -> int | None:
        """Return the exit code as Kubernetes reports it, 128 + N after signal N; None if it still runs."""
        assert self._process is not None
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        with contextlib.suppress(ProcessLookupError):  # the runtime kills what is left in the cgroup
            os.killpg(self._process.pid, signal.SIGKILL)
        return code if code >= 0 else 128 - code

    def _script(self) -> str:
        root, context = self._root, self._pod["securityContext"]
        user, group, home = context["runAsUser"], context["runAsGroup"], self._environment["HOME"]
        lines = [
            f"mount -t tmpfs -o mode=755 none {root}",
            f"cp -a /etc {root}",
            f"echo service:x:{user}:{group}::{home}:/bin/sh >> {root}/etc/passwd",
            f"mkdir -p {root}/proc {root}/dev {root}{home}",
        ]
        lines += [f"mount --rbind /{name} {root}/{name}" for name in ("proc", "dev")]
        lines += [_system(root, path) for path in SYSTEM if os.path.exists(path)]
        lines += [
            _bind(self._volumes[mount["name"]], root, mount["mountPath"], mount.get("readOnly", False))
            for mount in self._spec["volumeMounts"]
        ]
        lines += [_bind(path, root, str(path), True) for path in _python()]
        lines.append(_bind(ROOT, root, image_folder(), True))
        if self._spec["securityContext"]["readOnlyRootFilesystem"]:
            lines.append(f"mount -o remount,ro {root}")
        drop = [
            *("chroot", str(root), "setpriv", f"--reuid={user}"),
            *(f"--regid={group}", f"--groups={context['fsGroup']}"),
            *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
            *("env", "-i", "-C", image_folder(), *(f"{n}={v}" for n, v in self._environment.items())),
        ]
        return "\n".join([*lines, f"exec {shlex.join([*drop, *self._command])}"])


def _system(root: Path, path: str) -> str:
    """Bind a system folder; copy it where it is a link."""
    return f"cp -P {path} {root}" if os.path.islink(path) else _bind(Path(path), root, path, True)


def _bind(source: Path, root: Path, target: str, read_only: bool) -> str:
    at = shlex.quote(f"{root}{target}")
    line = f"mkdir -p {at}; mount --bind {shlex.quote(str(source))} {at}"
    return f"{line}; mount -o remount,bind,ro {at}" if read_only else line


def _python() -> list[Path]:
    """Return the folders of the interpreter, its environment and its packages."""
    packages = [path for path in sys.path if path.endswith("-packages")]
    found = {Path(path).resolve() for path in (sys.base_prefix, sys.prefix, *packages)}
    found.add(Path(sys.prefix))  # as it is called, perhaps a link
    outer = [*found, Path("/usr")]
    return sorted(path for path in found if not any(path.is_relative_to(o) for o in outer if o != path))
