"""The overlay for KubeRay and its image: strict checks without Ray, closed ports, numbers that fit together;
and nothing of Ray by default."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.arguments import Arguments
from cluster.local import ENVIRONMENT
from lab import ROOT
from lab.kubernetes.__main__ import main
from lab.kubernetes.container import environment, image_environment, image_folder
from lab.kubernetes.manifests import FOLDER
from service.intake.readers import HEAVY_BYTES
from service.settings import options
from tests.pods import objects, one
from tests.test_repository import tracked

NAME = "visual-entailment-ray"
LABEL = {"app.kubernetes.io/name": NAME}
SPEC: dict[str, Any] = one("RayService", NAME, "ray")["spec"]
CLUSTER = SPEC["rayClusterConfig"]
HEAD = CLUSTER["headGroupSpec"]
(WORKERS,) = CLUSTER["workerGroupSpecs"]
SERVE: dict[str, Any] = yaml.safe_load(SPEC["serveConfigV2"])
(APPLICATION,) = SERVE["applications"]
DOCKERFILE = ROOT / "deploy" / "Dockerfile.ray"
IMAGE = DOCKERFILE.read_text(encoding="utf-8")
VARIABLES = image_environment(DOCKERFILE)
GIB = 1 << 30


def pod(group: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = group["template"]["spec"]
    return found


def container(group: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod(group)["containers"]
    return found


def ports(group: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(group)["ports"]}


# ---- the check of `make lint` ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        # KubeRay's keys
        ("minReplicas: 2", "minReplica: 2", "'minReplica' was unexpected"),
        ("maxReplicas: 8", "maxReplicas: eight", "workerGroupSpecs.0.maxReplicas"),
        ("authOptions:", "authOption:", "'authOption' was unexpected"),
        ("mode: token", "mode: tokens", "authOptions.mode"),
        ("readOnlyRootFilesystem:", "readOnlyRootFileSystem:", "readOnlyRootFileSystem"),
        ("failureThreshold: 120", "failureTreshold: 120", "failureTreshold"),
        # Ray Serve's
        ("proxy_location:", "proxy_locations:", "'proxy_locations' was unexpected"),
        ("proxy_location: EveryNode", "proxy_location: EveryNodes", "proxy_location: 'EveryNodes'"),
        ("request_timeout_s: 90", "request_timeout: 90", "'request_timeout' was unexpected"),
        ("request_timeout_s: 90", "request_timeout_s: 75", "request_timeout_s: 75 is not above 75"),
        ("route_prefix: /", "route_prefix: api", "applications.0.route_prefix"),
        ("max_replicas_per_node: 1", "max_replica_per_node: 1", "'max_replica_per_node' was unexpected"),
        ("applications:", "applications: [", "serveConfigV2"),
        # what they name in cluster/
        (
            "import_path: cluster.app:build",
            "import_path: cluster.apps:build",
            "import_path: cluster.apps:build",
        ),
        (
            "import_path: cluster.app:build",
            "import_path: cluster.app:built",
            "import_path: cluster.app:built",
        ),
        ("- name: ingress", "- name: ingres", "deployments: ingres is not one of"),
        # the arguments of its application
        ("cpus: 2", "cpu: 2", "args: cpu"),
        ("cpus: 2", "cpus: '2'", "args: cpus"),
        ("max_replicas: 16", "max_replicas: 1", "args: "),
        ("gpus: 0.5", "gpus: 1.5", "args: "),
        ("--device=", "--devices=", "args: "),
        ("--max-rss=6G", "--max-rss=much", "args: "),
    ],
)
def test_a_mistake_fails(
    old: str, new: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rayservice.yaml"
    shutil.copytree(FOLDER / "ray", tmp_path, dirs_exist_ok=True)
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert main([str(tmp_path)]) == 1
    assert said in capsys.readouterr().out


# ---- closed ports ----------------------------------------------------------------------------------------


def test_ray_s_own_ports_are_open_to_its_pods_and_its_operator_alone() -> None:
    policy = one("NetworkPolicy", NAME, "ray")["spec"]
    assert policy["podSelector"]["matchLabels"] == LABEL
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    for group in (HEAD, WORKERS):
        assert group["template"]["metadata"]["labels"] == LABEL
    own, *others = policy["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": LABEL}}]}
    opened = {_namespace(rule): [port["port"] for port in rule["ports"]] for rule in others}
    assert opened == {
        "ingress-nginx": ["serve"],
        "kuberay-system": ["dashboard", "serve"],
        "monitoring": ["metrics", "serve", 8100],
    }
    assert {"serve", "metrics", "dashboard"} <= set(ports(HEAD))
    assert set(ports(WORKERS)) == {"serve", "metrics"}
    assert ports(HEAD)["serve"] == ports(WORKERS)["serve"] == SERVE["http_options"]["port"]


def test_monitoring_reaches_every_replica() -> None:
    arguments = Arguments.read(APPLICATION["args"])
    settings = arguments.settings()
    (rule,) = (
        r for r in one("NetworkPolicy", NAME, "ray")["spec"]["ingress"] if _namespace(r) == "monitoring"
    )
    health = rule["ports"][-1]
    assert settings.health_host == "0.0.0.0"
    assert health["port"] == settings.health_port
    assert health["endPort"] == settings.health_port + (arguments.max_replicas or 0) - 1


def _namespace(rule: dict[str, Any]) -> str:
    (source,) = rule["from"]
    labels = source.get("namespaceSelector", {}).get("matchLabels", {})
    return str(labels.get("kubernetes.io/metadata.name"))


def test_a_token_is_required_and_no_usage_is_reported() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token", "secretName": NAME}
    assert VARIABLES["RAY_AUTH_MODE"] == "token", "or `ray start` without a token is open to everybody"
    assert VARIABLES["RAY_USAGE_STATS_ENABLED"] == "0"
    created = (FOLDER / "ray" / "kustomization.yaml").read_text()
    assert f"generic {NAME} --from-file=auth_token --from-file=api_keys" in created


@pytest.mark.parametrize("group", [HEAD, WORKERS], ids=["head", "worker"])
def test_the_pods_have_no_rights(group: dict[str, Any]) -> None:
    spec, context = pod(group), pod(group)["securityContext"]
    assert spec["enableServiceLinks"] is False
    assert (context["runAsNonRoot"], context["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    assert (
        container(group)["securityContext"]
        == CLUSTER["autoscalerOptions"]["securityContext"]
        == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    )


def test_only_the_head_may_ask_the_api_server() -> None:
    assert pod(WORKERS)["automountServiceAccountToken"] is False
    assert "automountServiceAccountToken" not in pod(HEAD)


# ---- what the image and the product have -----------------------------------------------------------------


def test_user_and_folders_are_the_image_s() -> None:
    for group in (HEAD, WORKERS):
        context = pod(group)["securityContext"]
        base = one("Deployment")["spec"]["template"]["spec"]["securityContext"]
        assert context == base
        names = {mount["mountPath"]: mount["name"] for mount in container(group)["volumeMounts"]}
        assert names["/tmp"] == "tmp"
        assert set(names.values()) == {volume["name"] for volume in pod(group)["volumes"]}
    image = image_environment()
    assert (names[image["OFA_RUN_DIR"]], names[image["MODELSCOPE_CACHE"]]) == ("run", "models")
    volumes = {volume["name"]: volume for volume in pod(WORKERS)["volumes"]}
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert one("PersistentVolumeClaim", claim, "ray")
    (secrets,) = (path for path, name in names.items() if name == "secrets")
    variables = environment(container(WORKERS))
    ours = {name: value for name, value in variables.items() if not name.startswith("RAY_")}
    assert ours == {"OFA_API_KEYS_FILE": f"{secrets}/api_keys"}
    assert ours.keys() <= {option.env for option in options().values()}
    assert variables.keys() - ours == environment(container(HEAD)).keys()
    assert [item["key"] for item in volumes["secrets"]["secret"]["items"]] == ["api_keys"], "not Ray's token"


def test_the_version_of_ray_is_the_pinned_one() -> None:
    (pinned,) = re.findall(
        r"^ray\[serve\]==(\S+)$", (ROOT / "requirements-ray.txt").read_text(), re.MULTILINE
    )
    assert CLUSTER["rayVersion"] == pinned


def test_the_image_adds_ray_and_the_cluster_code_to_the_default_one() -> None:
    assert re.findall(r"^(?:ARG BASE=|FROM )(.+)$", IMAGE, re.MULTILINE) == ["visual-entailment:1", "$BASE"]
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", IMAGE, re.MULTILINE) for name in line.split()]
    assert copied == ["requirements-ray.txt", "cluster"]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    kept = (ROOT / "deploy" / "Dockerfile.ray.dockerignore").read_text().splitlines()
    assert [line for line in kept if line.startswith("!")] == [f"!{name}" for name in copied]
    assert re.findall(r"^USER (\w+)$", IMAGE, re.MULTILINE) == ["root", "service"]
    assert VARIABLES["PYTHONPATH"] == image_folder(), "Ray's processes start in other folders"
    images = {container(group)["image"] for group in (HEAD, WORKERS)}
    assert images == {f"{NAME}:1"}


def test_ray_is_set_up_as_on_one_machine() -> None:
    """But for what is of loopback."""
    expected = ENVIRONMENT | {"PYTHONPATH": image_folder()}
    del expected["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]
    assert expected == VARIABLES


def test_the_probes_ask_ray_and_its_http_proxy() -> None:
    asked = [
        (container(group)[probe]["httpGet"]["path"], container(group)[probe]["httpGet"]["port"])
        for group in (HEAD, WORKERS)
        for probe in ("livenessProbe", "readinessProbe")
    ]
    # 52365 is the default of KubeRay and Ray alike; a test with Ray asks both paths.
    node = ("/api/healthz", 52365)
    assert asked == [node, node, node, ("/-/healthz", "serve")]


# ---- numbers that fit together ---------------------------------------------------------------------------


def test_the_engines_fit_on_the_workers() -> None:
    arguments = Arguments.read(APPLICATION["args"])
    resources = container(WORKERS)["resources"]
    on_each = int(resources["limits"]["nvidia.com/gpu"] / arguments.gpus)
    assert on_each * arguments.cpus < int(resources["requests"]["cpu"]), "the ingress takes a share, too"
    assert arguments.max_replicas == on_each * WORKERS["maxReplicas"]
    assert arguments.replicas >= WORKERS["minReplicas"] == WORKERS["replicas"]
    assert HEAD["rayStartParams"]["num-cpus"] == HEAD["rayStartParams"]["num-gpus"] == "0"
    assert SPEC["excludeHeadPodFromServeSvc"] is True


def test_memory_and_times_are_above_the_product_s_own() -> None:
    arguments = Arguments.read(APPLICATION["args"])
    settings = arguments.settings()
    limits = container(WORKERS)["resources"]["limits"]
    on_each = int(limits["nvidia.com/gpu"] / arguments.gpus)
    store = int(WORKERS["rayStartParams"]["object-store-memory"])
    (gib,) = re.fullmatch(r"(\d+)Gi", limits["memory"]).groups()
    assert on_each * (settings.max_rss + HEAVY_BYTES) + store < int(gib) * GIB
    hook = container(WORKERS)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(WORKERS)["terminationGracePeriodSeconds"] >= hook + 30, "Ray drains a node for 30 s after TERM"


def test_the_budget_leaves_a_worker() -> None:
    budget = one("PodDisruptionBudget", NAME, "ray")["spec"]
    assert budget["selector"]["matchLabels"] == LABEL | {"ray.io/node-type": "worker"}
    assert 1 <= budget["minAvailable"] < WORKERS["minReplicas"]
    assert "maxUnavailable" not in budget, "needs a controller with a scale subresource"
    assert {found["metadata"]["labels"]["app.kubernetes.io/name"] for found in objects("ray")} == {NAME}


# ---- nothing of it by default ----------------------------------------------------------------------------


def test_the_default_install_and_image_have_nothing_of_ray() -> None:
    """constraints.txt has its versions; it installs nothing."""
    named = [
        (name, line)
        for name in (
            "requirements.txt",
            "requirements-dev.txt",
            "deploy/Dockerfile",
            "deploy/Dockerfile.dockerignore",
        )
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if re.search(r"\bray\b|\bcluster\b", line)
    ]
    assert named == []
    assert find_spec("ray") is None


def test_only_the_cluster_and_what_tests_it_import_ray() -> None:
    """Entries and tests, too, which the contracts of import-linter do not cover."""
    line = re.compile(r"^\s*(?:import|from) ray\b", re.MULTILINE)
    importing = [path for path in tracked("*.py") if line.search((ROOT / path).read_text(encoding="utf-8"))]
    assert {path.parent.as_posix() for path in importing} == {"cluster", "lab/cluster", "tests/cluster"}


@pytest.mark.parametrize("present", [False, True], ids=["absent", "present"])
def test_the_default_service_never_imports_ray(present: bool, tmp_path: Path) -> None:
    """A stand-in is found where Ray is installed, too, so that an import within ``try`` would be seen."""
    if present:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "__init__.py").touch()
    program = (
        "import sys, web_app, health_api, service.build, api.app, page.site;"
        "print(*{name.partition('.')[0] for name in sys.modules} & {'ray', 'cluster'}, sep=' ')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
