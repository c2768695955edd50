"""What a cluster opens to others: addresses, token, files. Read from the real processes."""

from __future__ import annotations

import contextlib
import ipaddress
import stat
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from lab.instances.instance import Instance

#: Ray Serve opens a port for calls between deployments in each replica and each ingress, on all addresses; no
#: setting of Ray 2.60 changes that. It needs the token.
OPEN = "ray::ServeReplica:"


def processes(cluster: Instance) -> list[psutil.Process]:
    program = psutil.Process(cluster.process.pid)
    return [program, *program.children(recursive=True)]


def listening(cluster: Instance) -> list[tuple[str, str, int]]:
    """Return title, address and port of every listening TCP socket, and of every UDP socket."""
    found = []
    for process in processes(cluster):
        title = " ".join(process.cmdline())
        for one in process.net_connections("inet"):
            if one.status in (psutil.CONN_LISTEN, psutil.CONN_NONE) and one.laddr:
                found.append((title, one.laddr.ip, one.laddr.port))
    return found


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def test_only_loopback_listens(cluster: Instance) -> None:
    found = listening(cluster)
    assert len(found) > 10
    elsewhere = [title for title, address, _ in found if not is_loopback(address)]
    replicas = [
        title for title in (" ".join(one.cmdline()) for one in processes(cluster)) if title.startswith(OPEN)
    ]
    assert len(replicas) == 4
    assert sorted(elsewhere) == sorted(replicas), "one port of each, and nothing else"


def test_the_ports_that_are_not_on_loopback_need_the_token(cluster: Instance) -> None:
    for _, address, port in listening(cluster):
        if is_loopback(address):
            continue
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
            with pytest.raises(grpc.RpcError) as error:
                call(b"", timeout=30)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_ray_s_own_ports_need_the_token(cluster: Instance) -> None:
    (gcs,) = [port for title, _, port in listening(cluster) if "/gcs_server " in title]
    with grpc.insecure_channel(f"127.0.0.1:{gcs}") as channel:
        call = channel.unary_unary("/ray.rpc.JobInfoGcsService/GetAllJobInfo")
        with pytest.raises(grpc.RpcError) as error:
            call(b"", timeout=30)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_agents_take_no_jobs_without_the_token(cluster: Instance) -> None:
    asked = []
    for title, _, port in listening(cluster):
        if title.startswith(("ray::DashboardAgent", "ray::RuntimeEnvAgent")):
            with contextlib.suppress(httpx.TransportError):  # a port for gRPC
                asked.append(httpx.get(f"http://127.0.0.1:{port}/api/job_agent/jobs/"))
    refused = [one for one in asked if one.status_code == 401]
    assert len(refused) == 2
    assert all(one.text.startswith("# HELP") for one in asked if one not in refused), "metrics, on any path"


def test_the_token_is_only_this_user_s(cluster: Instance) -> None:
    environment = psutil.Process(cluster.process.pid).children()[0].environ()
    token = Path(environment["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert environment["RAY_AUTH_MODE"] == "token"
    assert not Path("~/.ray/auth_token").expanduser().exists()


def test_no_dashboard_runs(cluster: Instance) -> None:
    titles = [" ".join(one.cmdline()) for one in processes(cluster)]
    assert [
        title for title in titles if "dashboard/dashboard.py" in title and "--modules-to-load" not in title
    ] == []
