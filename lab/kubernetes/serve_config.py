"""Check what a RayService's serveConfigV2 names: the application, its deployments and its arguments.

Ray is not needed. It would not help either: its own schema ignores a key that it does not know.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from cluster.arguments import ArgumentError, Arguments
from lab import ROOT

Object = dict[str, Any]


def mistakes(config: Object) -> Iterator[str]:
    """Yield what is wrong in a configuration that its schema allows."""
    for application in config["applications"]:
        yield from _wrong_names(application)
        try:
            Arguments.read(application.get("args", {}))
        except ArgumentError as error:
            yield f"args: {error}"


def _wrong_names(application: Object) -> Iterator[str]:
    module, _, function = application["import_path"].partition(":")
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else ast.Module([], [])
    if not any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body):
        yield f"import_path: {application['import_path']} is not a function of this repository"
    names = deployments(tree)
    for deployment in application.get("deployments", []):
        if deployment["name"] not in names:
            yield f"deployments: {deployment['name']} is not one of {sorted(names)}"


def deployments(tree: ast.Module) -> set[str]:
    """Return the names that a module gives to ``serve.deployment``, as literals or as its constants."""
    constants = {
        node.target.id: node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    given = [
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "serve.deployment"
        for keyword in node.keywords
        if keyword.arg == "name"
    ]
    values = [constants.get(value.id) if isinstance(value, ast.Name) else value for value in given]
    return {str(value.value) for value in values if isinstance(value, ast.Constant)}
