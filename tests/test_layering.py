"""Holds the imports of the tree, lazy ones included, against the picture that docs/architecture.md draws.

Data goes one way: page → service → engine → predictor → model. Every module is listed with what it may
import of ours and which foreign packages of weight it may touch; a new module is entered here and there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("ofa", "service", "page", "parity", "bench", "models", "tests", "health_api", "web_app")

# Modules that several layers share: words and values, no behaviour of their own.
VALUES = {"service.contract", "service.contract.errors", "service.contract.request"}

# module or package (the longest prefix counts) → what it may import of ours, by prefix.
MAY_IMPORT: dict[str, set[str]] = {
    "ofa": {"ofa"},
    "ofa.__main__": VALUES
    | {
        "ofa",
        "service.hub.resolve",
        "service.intake.image",
        "service.inference.native",
        "service.settings",
        "service.intake.text",
    },
    "service.contract": set(),
    "service.contract.errors": {"service.contract"},
    "service.callers": set(),
    "service.kinds": {"service.callers"},
    "service.settings": {"service.callers", "service.contract", "service.contract.errors", "service.kinds"},
    "service.contract.request": {"service.contract.errors"},
    "service.intake.text": VALUES,
    "service.intake.image": VALUES | {"ofa.picture", "ofa.container", "ofa.errors"},
    "service.intake.reader_child": {"ofa.picture", "ofa.errors"},
    "service.intake.reader_process": {"service.intake.reader_child"},
    "service.intake.readers": VALUES
    | {"ofa.errors", "ofa.picture", "service.intake.reader_process", "service.contract.status"},
    "service.health.resources": set(),
    "service.contract.status": VALUES,
    "service.health.report": VALUES | {"service.contract.status", "service.health.resources"},
    "service.health.prober": VALUES | {"service.contract.events", "service.contract.status"},
    "service.contract.events": VALUES,
    "service.telemetry.log_writers": set(),
    "service.telemetry.logs": VALUES | {"service.telemetry.log_writers", "service.contract.events"},
    "service.streams": set(),
    "service.telemetry.versions": set(),
    "service.telemetry.vitals": {"service.health.resources"},
    "doctor": {"service.contract", "doctor", "service.inference.latency", "service.streams"},
    "service.telemetry.gauges": {
        "service.contract",
        "service.health.report",
        "service.listening",
        "service.health.resources",
        "service.contract.status",
        "service.telemetry.versions",
    },
    "service.telemetry.metrics": VALUES | {"service.telemetry.gauges", "service.contract.events"},
    "service.inference.latency": set(),
    "service.inference.jobs": VALUES | {"service.inference.latency"},
    "service.inference.admission": VALUES | {"service.inference.jobs"},
    "service.process.exit_file": {"service.telemetry.logs", "service.health.resources"},
    "service.process.postmortem": VALUES
    | {"service.telemetry.logs", "service.health.resources", "service.contract.status"},
    "service.health.memory_limit": {"service.contract.errors", "service.health.resources"},
    "service.inference.memory_fallback": VALUES | {"service.contract.events", "service.contract.protocols"},
    "service.intake.prepare": VALUES
    | {
        "service.intake.image",
        "service.telemetry.logs",
        "service.contract.protocols",
        "service.intake.readers",
        "service.settings",
    }
    | {"service.intake.text"},
    "service.contract.protocols": VALUES,
    "service.hub.progress": {"service.contract.errors"},
    "service.hub.manifest": {"service.contract.errors"},
    "service.hub.model_folder": {"service.contract.errors", "ofa.documents"},
    "service.hub.client": {
        "service.contract.errors",
        "service.hub.progress",
        "service.hub.manifest",
        "service.hub.model_folder",
    },
    "service.hub.resolve": {
        "service.contract",
        "service.contract.errors",
        "service.hub.client",
        "service.hub.manifest",
        "service.hub.model_folder",
        "service.hub.progress",
    },
    "service.inference.engine": VALUES
    | {
        "service.inference.admission",
        "service.inference.jobs",
        "service.inference.latency",
        "service.contract.protocols",
        "service.contract.status",
    },
    "service.inference.native": VALUES | {"service.contract.protocols", "service.settings", "ofa"},
    "service.inference.converting": {"service.contract.errors", "service.contract.protocols"},
    "service.inference.modelscope.child": set(),
    "service.inference.modelscope.process": VALUES | {"service.contract.protocols"},
    "service.inference.modelscope.backend": VALUES
    | {"service.contract.protocols", "service.settings", "service.inference.modelscope.process"},
    "service.inference.loader": {
        *(
            "service.telemetry.logs",
            "service.contract.events",
            "service.hub.progress",
            "service.contract.protocols",
            "service.settings",
        ),
        *("service.contract.status", *VALUES),
    },
    "service.telemetry.history": VALUES
    | {
        "service.health.report",
        "service.contract.events",
        "service.health.resources",
        "service.contract.status",
    },
    "service.process.restart_log": {"service.contract"},
    "service.operations": {
        *(
            "service.health.report",
            "service.telemetry.history",
            "service.contract.protocols",
            "service.health.resources",
            "service.process.restart_log",
        ),
        "service.contract.status",
    },
    "service.process.systemd": {"service.health.report"},
    "service.build": {"service"},
    "service.application": {"service"},
    "service.listening": {"service.callers", "service.contract.errors"},
    "service.health.wsgi": {"service.listening"},
    "service.health.api": {
        *(
            "service.contract",
            "service.health.report",
            "service.listening",
            "service.telemetry.metrics",
            "service.health.wsgi",
        ),
    },
    "service.health.channel": {
        "service.contract",
        "service.health.report",
        "service.listening",
        "service.health.wsgi",
    },
    "service.main": {"service"},
    "health_api": {"service.process.exit_file", "service.main", "service.health.api"},
    "page": VALUES
    | {"service.callers", "service.listening", "ofa.documents"}
    | {
        "page",
        "service.telemetry.history",
        "service.operations",
        "service.health.resources",
        "service.process.restart_log",
    }
    | {"service.settings", "service.contract.status"},
    "web_app": {"page", "health_api", "service"},
    "models": {"models", "ofa"},
    "bench": {"bench", "ofa", "service", "health_api", "lab.parity.folders", "lab.demo_training"},
    "lab.bench.reference": {"service.inference.modelscope.child"},
    "parity": {
        *("parity", "ofa", "models"),
        *(
            "service.hub.resolve",
            "service.inference.modelscope.process",
            "service.inference.modelscope.backend",
            "service.inference.modelscope.child",
        ),
        *VALUES,
    },
}

# foreign package → the only modules that may import it.
ONLY_IN: dict[str, set[str]] = {
    "torch": {
        "ofa",
        "models",
        "parity",
        "bench",
        "service.inference.native",
        "service.health.resources",
        "service.inference.modelscope.child",
    },
    "gradio": {"page", "web_app"},
    "gradio_client": {"page", "web_app"},
    "flask": {"service.health.channel", "service.health.api"},
    "waitress": {"service.health.wsgi"},
    "modelscope": {"service.hub.client", "service.inference.modelscope.child", "parity"},
    "psutil": {"service.health.resources"},
    "python_multipart": {"page.multipart"},
    "prometheus_client": {"service.telemetry.metrics", "service.telemetry.gauges"},
    "sklearn": {"doctor.training"},
    "tokenizers": {"ofa", "parity", "models"},
}

# Neither threads nor servers nor settings have a place in the network's folder.
FORBIDDEN_IN_OFA = {
    "threading",
    "concurrent",
    "asyncio",
    "multiprocessing",
    "queue",
    "socket",
    "http",
    "urllib",
    "requests",
    "httpx",
    "signal",
    "configparser",
}


def product_modules() -> dict[str, Path]:
    """Module name → file, for everything that is shipped."""
    found = {}
    for folder in ("ofa", "service", "page", "parity", "bench", "models"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    for name in ("health_api", "web_app"):
        found[name] = ROOT / f"{name}.py"
    return found


@cache
def imports_of(name: str) -> frozenset[str]:
    """Full names of all modules that ``name`` imports anywhere in its file."""
    path = product_modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return frozenset(_imported(ast.parse(path.read_text(encoding="utf-8")), package))


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = ".".join(package.split(".")[: len(package.split(".")) - level + 1]) if level else ""
                source = ".".join(part for part in (base, module) if part)
                for alias in names:
                    member = f"{source}.{alias.name}"
                    yield member if member in product_modules() else source
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str() as target), *_],
            ):
                yield target


def entry(table: dict[str, set[str]], name: str) -> str | None:
    """The longest prefix of ``name`` that the table lists."""
    candidates = [listed for listed in table if within(name, listed)]
    return max(candidates, key=len, default=None)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def test_every_module_has_its_place_in_the_table() -> None:
    listed = set(MAY_IMPORT)
    for name in product_modules():
        if name == "service" or within(name, "ofa") or within(name, "page"):
            continue
        assert entry(MAY_IMPORT, name), f"{name} is not in the layering table"
    assert {name for name in listed if name not in product_modules()} == set(), "listed but not there"


def test_every_module_of_the_service_is_named_in_the_document() -> None:
    document = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = [
        str(path.relative_to(ROOT)) for name, path in product_modules().items() if within(name, "service")
    ]
    assert [file for file in files if f"`{file}`" not in document] == ["service/__init__.py"]


@pytest.mark.parametrize("name", product_modules())
def test_a_module_imports_only_what_lies_below_it(name: str) -> None:
    place = entry(MAY_IMPORT, name)
    allowed = MAY_IMPORT[place] if place else set()
    ours = {target for target in imports_of(name) if target.partition(".")[0] in OURS}
    astray = {target for target in ours if not any(within(target, prefix) for prefix in allowed)}
    assert not astray, f"{name} may import {sorted(allowed)} of ours, not {sorted(astray)}"


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_heavy_package_is_imported_where_it_belongs_and_nowhere_else(package: str) -> None:
    importers = {
        name
        for name in product_modules()
        if any(within(target, package) for target in imports_of(name))
        and not any(within(name, home) for home in ONLY_IN[package])
    }
    assert not importers, f"{package} is imported by {sorted(importers)}"


def test_the_network_knows_no_threads_servers_or_settings() -> None:
    astray = {
        (name, target)
        for name in product_modules()
        if within(name, "ofa")
        for target in imports_of(name)
        if target.partition(".")[0] in FORBIDDEN_IN_OFA
    }
    assert not astray


def test_only_the_predictor_reaches_the_network_from_the_service() -> None:
    beside = {"ofa.documents", "ofa.picture", "ofa.container", "ofa.errors"}  # none of them imports torch
    importers = {
        name
        for name in product_modules()
        if name.partition(".")[0] in ("service", "health_api", "web_app", "page")
        and any(within(target, "ofa") and target not in beside for target in imports_of(name))
    }
    assert importers == {"service.inference.native"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path[path.index(name) :], name))
        if name in done:
            return
        for target in imports_of(name) & product_modules().keys():
            if target != name:
                visit(target, (*path, name))
        done.add(name)

    for name in product_modules():
        visit(name, ())


def test_imports_inside_functions_and_by_name_are_seen() -> None:
    source = """
def late():
    from service.contract import errors
    from . import scoring
    importlib.import_module("torch.nn")
    __import__("gradio")
"""
    assert set(_imported(ast.parse(source), "ofa")) == {
        "service.contract.errors",
        "ofa.scoring",
        "torch.nn",
        "gradio",
    }
