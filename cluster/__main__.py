"""Start a Ray cluster on this machine, reachable on loopback only, and serve a model on it until SIGTERM.

    python -m cluster --replicas 2 --port 7860 -- --model demo

Exit codes are those of the service: 0 after SIGTERM or SIGINT, 1 if the model cannot be served, 69 if the
port is taken, 78 for a wrong argument. Send a signal to this process alone (systemd: KillMode=mixed): it ends
Ray's processes in order.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cluster import local
from cluster.arguments import ArgumentError, Arguments
from service.contract.causes import ExitCode
from service.contract.errors import SettingsError


def main(argv: Sequence[str]) -> int:
    """Run until a signal. Returns the exit code."""
    given = _parser().parse_args(argv)
    try:
        arguments = Arguments.read(
            {
                "replicas": given.replicas,
                "max_replicas": given.max_replicas,
                "cpus": given.cpus,
                "gpus": given.gpus,
                "flags": given.flags,
            }
        )
    except ArgumentError as error:
        print(f"python -m cluster: {error}", file=sys.stderr)
        return ExitCode.CONFIGURATION
    port = arguments.settings().port if given.port is None else given.port
    try:
        return local.serve_until_signal(arguments, port)
    except SettingsError as error:
        print(f"python -m cluster: {error.message} {error.remedy} ({error.code})", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cluster",
        description="Serve a model with Ray Serve on this machine, on loopback only (docs/scaling.md).",
        epilog="Flags of the service follow after --, e.g. -- --model demo --run-dir /var/lib/vqa",
        allow_abbrev=False,
    )
    parser.add_argument("--replicas", type=int, default=2, help="engines (default: 2)")
    parser.add_argument("--max-replicas", type=int, help="engines at most; with it, Ray adds them under load")
    parser.add_argument("--cpus", type=int, default=1, help="processor cores of each engine (default: 1)")
    parser.add_argument("--gpus", type=float, default=0, help="share of a GPU of each engine (default: 0)")
    parser.add_argument(
        "--port", type=int, help="port of the API, 0: a free one (default: OFA_PORT, or 7860)"
    )
    parser.add_argument("flags", nargs="*", metavar="FLAG", help="flags of the service, after --")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
