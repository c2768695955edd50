"""The compose file and the Dockerfile, checked statically: the tests have no container engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings, options

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*")


def mounts() -> list[tuple[str, str, str]]:
    """Service, source and target of every volume."""
    return [
        (name, *volume.split(":")[:2]) for name, service in SERVICES.items() for volume in service["volumes"]
    ]


def target_of(service: str, source: str) -> str:
    """The path in a service's container of the local ``source``."""
    (found,) = (target for name, here, target in mounts() if (name, here) == (service, source))
    return found


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_to_a_version(name: str) -> None:
    image = SERVICES[name].get("image") or re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)[0]
    assert PINNED.fullmatch(image)


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(name: str) -> None:
    assert SERVICES[name]["ports"]
    assert [port for port in SERVICES[name]["ports"] if not port.startswith("127.0.0.1:")] == []


def test_every_volume_exists_or_is_declared() -> None:
    missing = [
        source
        for _, source, _ in mounts()
        if not ((DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"])
    ]
    assert missing == []


def test_the_built_files_exist() -> None:
    build = SERVICES["app"]["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert (context, (context / build["dockerfile"]).is_file()) == (ROOT, True)
    copied = [
        name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    ]
    assert {"web_app.py", "guardian.sh", "service", "models"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert [name for name in copied if f"!{name}" not in kept] == []


def test_everything_the_image_imports_is_in_the_image() -> None:
    copied = set(re.findall(r"^COPY (\w+) ", DOCKERFILE, re.MULTILINE))
    ours = "|".join({path.parent.name for path in ROOT.glob("*/__init__.py")})
    sources = [ROOT / "web_app.py", ROOT / "health_api.py"]
    sources += [path for name in copied for path in (ROOT / name).rglob("*.py")]
    imported = {
        name
        for path in sources
        for name in re.findall(rf"^\s*(?:from|import) ({ours})\b", path.read_text(), re.MULTILINE)
    }
    assert imported <= copied


def test_ports_are_the_same_everywhere() -> None:
    exposed = {int(port) for port in re.findall(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE)[0].split()}
    assert exposed == {Settings.port, Settings.health_port}
    published = {int(port.split(":")[2]) for port in SERVICES["app"]["ports"]}
    assert published == exposed
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert scraped[0]["static_configs"] == [{"targets": [f"app:{Settings.health_port}"]}]


def test_every_variable_is_one_that_the_service_reads() -> None:
    known = {option.env for option in options().values()} | {"PYTHON", "PYTHONUNBUFFERED"}
    set_here = set(SERVICES["app"]["environment"])
    set_in_image = {
        part.partition("=")[0] for part in re.findall(r"^ENV (.+)$", DOCKERFILE, re.MULTILINE)[0].split()
    }
    assert (set_here | set_in_image) - known == set()


def test_prometheus_and_grafana_find_their_files() -> None:
    config = target_of("prometheus", "./prometheus/prometheus.yml")
    assert f"--config.file={config}" in SERVICES["prometheus"]["command"]
    rules = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["rule_files"]
    targets = [str(Path(config).parent / name) for name in rules]
    assert targets == [target_of("prometheus", "./prometheus/alerts.yml")]
    assert target_of("grafana", "./grafana/provisioning") == "/etc/grafana/provisioning"
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/dashboards.yml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    assert folder == target_of("grafana", "./grafana/dashboards")
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES


def test_no_secret_is_in_the_file() -> None:
    assert SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:?")
    assert "OFA_OPS_PASSWORD" not in SERVICES["app"]["environment"]
