"""The dashboard and the rules over a real Prometheus that scrapes real instances after real traffic.

As there may be no GPU here, an application with a simulated GPU is scraped too, so that every query has data.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from PIL import Image

from health_api import Sidecar
from lab.instances.instance import ROOT, Instance
from service.build import Application, build
from service.listening import listen
from service.settings import Settings
from tests.deploy.prometheus import Prometheus, prometheus
from tests.fakes import PATIENCE, FakeGpuModel

GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "visual-entailment.json").read_text(encoding="utf-8"))
# The values of Grafana's variables.
VARIABLES = {"$instance": ".*", "$__rate_interval": "5m"}
PICTURE = Image.new("RGB", (32, 24), (200, 10, 10))


class GpuModel(FakeGpuModel):
    """On a card whose memory is half used."""

    def gpu(self) -> tuple[str, int, int]:
        return "a card", 4 << 30, 8 << 30


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Application, int]]:
    """An application with a simulated GPU, and the port of its health API."""
    folder = tmp_path_factory.mktemp("gpu")
    application = build(Settings(run_dir=folder), model=GpuModel(), resolve=lambda *_, **__: folder)
    sidecar = Sidecar(application, listen("127.0.0.1", 0, "--health-port"))
    sidecar.start()
    assert application.supervisor.load()
    yield application, sidecar.port
    application.supervisor.stop(0.0)
    sidecar.stop()


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory, running_service: Instance, on_gpu: tuple[Application, int]
) -> Iterator[Prometheus]:
    """Prometheus after it has scraped traffic."""
    application, port = on_gpu
    targets = [f"127.0.0.1:{running_service.health_port}", f"127.0.0.1:{port}"]
    with prometheus(tmp_path_factory.mktemp("prometheus"), targets) as server:
        server.wait_for(
            "both instances", lambda: server.values("count(ofa_requests_total) by (instance)") != []
        )
        server.wait_for("both to be up", lambda: server.values("sum(up)") == [2.0])
        server.wait_for("the traffic", lambda: traffic(running_service, application) and seen(server))
        yield server


def traffic(instance: Instance, application: Application) -> bool:
    """Requests to both, an invalid one, and a probe of each."""
    picture = (ROOT / "models" / "demo" / "examples" / "existence.png").read_bytes()
    instance.judge(picture, "there is a red circle")
    with pytest.raises(AssertionError, match="no_text"):
        instance.judge(picture, "")
    call = json.dumps({"image": base64.b64encode(picture).decode(), "text": "there is a red circle"}).encode()
    headers = {"content-type": "application/json"}
    urllib.request.urlopen(
        urllib.request.Request(f"{instance.page}/v1/judge", call, headers), timeout=60
    ).close()
    password = (instance.run_dir / "ops_password").read_text().strip()
    operator = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    for path, body in (("login", {"password": password}), ("probe", {})):
        request = urllib.request.Request(f"{instance.page}/ops/{path}", json.dumps(body).encode(), headers)
        operator.open(request, timeout=60).close()
    application.submit(PICTURE, "a question").result(PATIENCE)
    application.operations.probe()
    return True


def seen(server: Prometheus) -> bool:
    """Return whether requests and probes of both rose between two scrapes."""
    rising = ('ofa_requests_total{source="api", outcome="answered"}', 'ofa_probes_total{outcome="success"}')
    return all(server.values(f"count(increase({series}[5m]) > 0)") == [2.0] for series in rising)


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """Return every query by panel and letter, with variables filled in."""
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            found[f"{panel['title']}, {target['refId']}"] = filled(target["expr"])
    return found


def filled(query: str, variables: Mapping[str, str] = VARIABLES) -> str:
    for name, value in variables.items():
        query = query.replace(name, value)
    return query


# ---- over Prometheus -------------------------------------------------------------------------------------


def test_every_query_of_the_dashboard_returns_data(
    watched: Prometheus, running_service: Instance, on_gpu: tuple[Application, int]
) -> None:
    asked = queries()
    assert len(asked) > 40
    missing: list[str] = []

    def complete() -> bool:
        missing[:] = [name for name, query in asked.items() if not watched.values(query)]
        # Recorded series appear with the next evaluation, and rates need recent traffic.
        return not missing or not traffic(running_service, on_gpu[0])

    try:
        watched.wait_for("data for every query", complete)
    except AssertionError as error:
        raise AssertionError(f"no data: {missing}") from error


def test_the_variable_and_the_annotation_have_data(watched: Prometheus) -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    selector, _, label = variable["definition"].removeprefix("label_values(").rstrip(")").rpartition(", ")
    found = watched.api("series", **{"match[]": selector})
    assert len({one[label] for one in found}) == 2
    (annotation,) = DASHBOARD["annotations"]["list"]
    assert watched.values(filled(annotation["expr"]).removesuffix(" > 0"))


def test_the_rules_are_evaluated_without_error_and_healthy_instances_raise_no_alert(
    watched: Prometheus,
) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in watched.api("rules")["groups"] for rule in group["rules"]]

    watched.wait_for("the rules", lambda: all(rule["health"] != "unknown" for rule in rules()))
    assert [rule["name"] for rule in rules() if rule["health"] != "ok" or rule.get("lastError")] == []
    of_the_machine = ("OfaSlow", "OfaLatencyDrift", "OfaResourceCritical")  # this machine may be slow or full
    firing = [rule["name"] for rule in rules() if rule.get("state") == "firing"]
    assert [name for name in firing if name not in of_the_machine] == []


# ---- without Prometheus ----------------------------------------------------------------------------------


def test_the_dashboard_uses_the_provisioned_data_source() -> None:
    provisioning = GRAFANA / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "dashboards.yml").read_text())["providers"]
    assert provider["type"] == "file"
    named = {one["uid"] for panel in panels() for one in (panel["datasource"], *_sources(panel))}
    assert named == {source["uid"]}


def _sources(panel: Mapping[str, Any]) -> list[dict[str, str]]:
    return [target["datasource"] for target in panel["targets"]]


def test_panels_have_distinct_titles_and_positions() -> None:
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_every_metric_is_on_the_dashboard() -> None:
    """Except those of which a graph would show nothing."""
    from service.telemetry.metrics import Metrics

    told = {
        line.split()[2] for line in Metrics().exposition().decode().splitlines() if line.startswith("# TYPE")
    }
    shown = " ".join(queries().values())
    unseen = {
        "ofa_orphanings_total",
        "process_virtual_memory_bytes",
        "process_max_fds",
        "process_start_time_seconds",
    }
    assert {name for name in told - unseen if name not in shown} == set()
