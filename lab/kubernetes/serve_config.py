"""Check what a RayService's serveConfigV2 names: the application, its deployments and its arguments.

Ray is not needed. It would not help either: its own schema ignores a key that it does not know.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from api.bodies import BODY_SECONDS
from cluster.arguments import DEPLOYMENTS, ArgumentError, Arguments
from lab import ROOT

Object = dict[str, Any]


def mistakes(config: Object) -> Iterator[str]:
    """Yield what is wrong in a configuration that its schema allows."""
    limit = config.get("http_options", {}).get("request_timeout_s", float("inf"))
    for application in config["applications"]:
        if not _is_function(application["import_path"]):
            yield f"import_path: {application['import_path']} is not a function of this repository"
        for deployment in application.get("deployments", []):
            if deployment["name"] not in DEPLOYMENTS:
                yield f"deployments: {deployment['name']} is not one of {', '.join(DEPLOYMENTS)}"
        try:
            arguments = Arguments.read(application.get("args", {}))
        except ArgumentError as error:
            yield f"args: {error}"
            continue
        if limit <= (needed := BODY_SECONDS + arguments.settings().timeout):
            yield f"http_options.request_timeout_s: {limit:g} is not above {needed:g} (upload and answer)"


def _is_function(import_path: str) -> bool:
    module, _, function = import_path.partition(":")
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        return False
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in body)
