"""The Kubernetes manifests: what they name exists in the product, and their numbers fit together."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from batch.limits import BATCH_BYTES, TOTAL_BYTES
from lab import ROOT
from lab.kubernetes.__main__ import main
from lab.kubernetes.container import environment, image_environment, image_folder
from lab.kubernetes.kubelet import Probe
from lab.kubernetes.manifests import FOLDER, folders
from page.uploads import CALLER_BYTES, FULL_QUOTAS
from service.api_keys import make
from service.contract import times
from service.health.api import create_app
from service.intake.readers import HEAVY_BYTES
from service.settings import Settings, options
from tests.contract.test_times import guardians
from tests.pods import objects, one, pod_spec

OVERLAYS = ("base", "gpu")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
GIB = 1 << 30
LABEL = {"app.kubernetes.io/name": "visual-entailment"}


def container(folder: str = "base") -> dict[str, Any]:
    (found,) = pod_spec(folder)["containers"]
    return found


def port_names(spec: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in spec["ports"]}


def gib(size: str) -> int:
    (number,) = re.fullmatch(r"(\d+)Gi", size).groups()
    return int(number) * GIB


# ---- the check of `make lint` ----------------------------------------------------------------------------


def test_every_folder_is_checked_and_has_no_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.name for path in folders()} == {"base", "gpu", "ray"}
    assert main([]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("overlay", "file", "old", "new"),
    [
        ("base", "base/deployment.yaml", "failureThreshold: 3", "failureTreshold: 3"),
        ("base", "base/deployment.yaml", "livenessProbe:", "livenesProbe:"),
        ("base", "base/deployment.yaml", "periodSeconds: 2", "periodSeconds: two"),
        ("gpu", "gpu/gpu.yaml", "maxSurge: 0", "maxSurges: 0"),
        ("gpu", "base/autoscaling.yaml", "averageValue", "avrageValue"),
        ("base", "base/network.yaml", "namespaceSelector", "nameSpaceSelector"),
        ("base", "base/monitoring.yaml", "interval: 15s", "intervall: 15s"),
        ("base", "base/availability.yaml", "kind: PodDisruptionBudget", "kind: PodDisruptionBudgets"),
        ("base", "base/kustomization.yaml", "resources:", "resource:"),
    ],
)
def test_a_mistake_fails(
    overlay: str, file: str, old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / file).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new), encoding="utf-8")
    assert main([str(tmp_path / overlay)]) == 1
    assert new.partition(":")[0] in capsys.readouterr().out or "two" in new


# ---- what the product has --------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_variable_is_a_setting_with_an_allowed_value(folder: str, tmp_path: Path) -> None:
    variables = environment(container(folder)) | {}
    assert set(variables) - {option.env for option in options().values()} == {"PYTHONFAULTHANDLER"}
    for name in variables:
        if name.endswith("_FILE"):
            make(tmp_path / name, "tests")  # any line is a password, too
            variables[name] = str(tmp_path / name)
    settings = Settings.from_args([], variables)
    assert (settings.threads, settings.max_rss) == (4, 6 * GIB)
    assert settings.page_served, "with API keys, the page needs its password"


def test_ports_are_the_product_s_and_named_where_they_are_used() -> None:
    ports = port_names(container())
    assert ports == {"page": Settings.port, "health": Settings.health_port}
    services = [found for found in objects() if found["kind"] == "Service"]
    assert {port["targetPort"] for service in services for port in service["spec"]["ports"]} <= set(ports)
    rules = one("NetworkPolicy")["spec"]["ingress"]
    assert [(_namespace(rule), [port["port"] for port in rule["ports"]]) for rule in rules] == [
        ("ingress-nginx", ["page"]),
        ("monitoring", ["health"]),
    ]
    (endpoint,) = one("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["port"] in {
        port["name"] for port in one("Service", "visual-entailment-health")["spec"]["ports"]
    }


def _namespace(rule: dict[str, Any]) -> str:
    (source,) = rule["from"]
    return str(source["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"])


def test_paths_exist() -> None:
    class Nothing:
        def report(self) -> Any: ...

        def exposition(self) -> bytes: ...

    known = {rule.rule for rule in create_app(Nothing()).url_map.iter_rules()}
    probes = [Probe.of(container(), kind) for kind in ("startup", "liveness", "readiness")]
    assert [(probe.path, probe.port) for probe in probes] == [
        ("/startupz", "health"),
        ("/livez", "health"),
        ("/readyz", "health"),
    ]
    asked = {probe.path for probe in probes} | {one("ServiceMonitor")["spec"]["endpoints"][0]["path"]}
    assert asked <= known
    assert (ROOT / container()["command"][1]).is_file()


def test_the_metric_of_the_autoscaler_is_exported() -> None:
    (metric,) = one("HorizontalPodAutoscaler")["spec"]["metrics"]
    documented = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")  # tests compare it with the code
    assert f"`{metric['pods']['metric']['name']}`" in documented


def test_user_and_folders_are_the_image_s() -> None:
    (uid,) = re.findall(r"--uid (\d+)", DOCKERFILE)
    context = pod_spec()["securityContext"]
    assert {context["runAsUser"], context["runAsGroup"], context["fsGroup"]} == {int(uid)}
    mounts = {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"]}
    image = image_environment()
    assert mounts[image["OFA_RUN_DIR"]] == "run"
    assert mounts[image["MODELSCOPE_CACHE"]] == "models"
    assert image_folder() == "/opt/visual-entailment"
    files = {value for name, value in environment(container()).items() if name.endswith("_FILE")}
    created = re.findall(r"--from-file=(\w+)", (FOLDER / "base" / "kustomization.yaml").read_text())
    (secrets,) = (path for path, name in mounts.items() if name == "secrets")
    assert files == {f"{secrets}/{name}" for name in created}
    assert one("PersistentVolumeClaim", "visual-entailment-models")


# ---- numbers that fit together ---------------------------------------------------------------------------


def test_the_grace_period_covers_hook_drain_and_stop() -> None:
    spec = pod_spec()
    hook = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = float(environment(container())["OFA_DRAIN_DELAY"])
    assert "OFA_STOP_GRACE" not in environment(container()), "STOP_TIMEOUT contains its default"
    assert spec["terminationGracePeriodSeconds"] >= hook + drain + times.STOP_TIMEOUT
    readiness = Probe.of(container(), "readiness")
    assert drain >= readiness.period + readiness.timeout, "a poller sees 503 before the port closes"


def test_probes_are_as_patient_as_the_guardian() -> None:
    startup, liveness = Probe.of(container(), "startup"), Probe.of(container(), "liveness")
    assert startup.period * startup.failures == guardians("START_TIMEOUT")
    assert (liveness.period, liveness.timeout) == (guardians("CHECK_INTERVAL"), guardians("CHECK_TIMEOUT"))
    failures = (ROOT / "guardian" / "health.sh").read_text() + (ROOT / "guardian.sh").read_text()
    assert f"LIVENESS_FAILURES={liveness.failures}" in failures
    hook = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert liveness.grace is not None
    assert liveness.grace - hook >= guardians("HUNG_STOP_TIMEOUT")
    assert one("Deployment")["spec"]["progressDeadlineSeconds"] > startup.period * startup.failures


def test_memory_and_disk_limits_are_above_the_product_s_own() -> None:
    resources = container()["resources"]
    limit = gib(resources["limits"]["memory"])
    settings = Settings.from_args([], {"OFA_MAX_RSS": environment(container())["OFA_MAX_RSS"]})
    assert settings.max_rss + HEAVY_BYTES < limit, "readers of large pictures do not count in --max-rss"
    assert "cpu" not in resources["limits"]
    sizes = {v["name"]: gib(v["emptyDir"]["sizeLimit"]) for v in pod_spec()["volumes"] if "emptyDir" in v}
    logs = 2 * Settings.log_max_bytes * (1 + Settings.log_backups)
    assert sizes["run"] > TOTAL_BYTES + BATCH_BYTES + logs
    assert sizes["tmp"] > FULL_QUOTAS * CALLER_BYTES


def test_every_selector_selects_the_pods() -> None:
    assert one("Deployment")["spec"]["template"]["metadata"]["labels"] == LABEL
    found = list(_selectors(objects()))
    assert len(found) == 7  # Deployment and its spreading, three Services, the budget, the policy
    assert [selector for selector in found if selector != LABEL] == []


def _selectors(value: object) -> Iterator[dict[str, str]]:
    """Selectors of pods, not those of namespaces or Services."""
    for found in value if isinstance(value, list) else []:
        spec = found["spec"]
        if found["kind"] == "Service":
            yield spec["selector"]
        elif found["kind"] in ("Deployment", "PodDisruptionBudget"):
            yield spec["selector"]["matchLabels"]
        elif found["kind"] == "NetworkPolicy":
            yield spec["podSelector"]["matchLabels"]
        if found["kind"] == "Deployment":
            (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
            yield spread["labelSelector"]["matchLabels"]


def test_monitoring_finds_the_health_service_alone_under_the_job_of_the_alerts() -> None:
    spec = one("ServiceMonitor")["spec"]
    wanted = spec["selector"]["matchLabels"].items()
    services = [found for found in objects() if found["kind"] == "Service"]
    chosen = [found for found in services if wanted <= found["metadata"]["labels"].items()]
    assert [found["metadata"]["name"] for found in chosen] == ["visual-entailment-health"]
    job = chosen[0]["metadata"]["labels"][spec["jobLabel"]]
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert [config["job_name"] for config in scraped["scrape_configs"]] == [job]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_the_container_has_no_rights(folder: str) -> None:
    spec = pod_spec(folder)
    assert (spec["enableServiceLinks"], spec["automountServiceAccountToken"]) == (False, False)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(folder)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_rollout_never_lacks_a_pod_except_where_a_gpu_would_be_missing() -> None:
    strategies = [
        one("Deployment", folder=folder)["spec"]["strategy"]["rollingUpdate"] for folder in OVERLAYS
    ]
    assert strategies == [{"maxUnavailable": 0, "maxSurge": 1}, {"maxUnavailable": 1, "maxSurge": 0}]
    assert one("HorizontalPodAutoscaler")["spec"]["minReplicas"] == 2
    assert "replicas" not in one("Deployment")["spec"], "each apply would reset the autoscaler's number"
    assert container("gpu")["resources"]["limits"]["nvidia.com/gpu"] == 1
