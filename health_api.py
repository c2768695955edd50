"""The health API: what monitors, guardians and load balancers ask. A thread of the same process.

    GET /health          everything, as JSON; 200 when the model is loaded and inference proven, else 503
    GET /health/simple   OK or FAIL
    GET /livez           worth killing?      GET /readyz   send traffic?      GET /startupz   still starting?
    GET /metrics         figures for Prometheus

Started as a program it serves a model with this API alone, without the page:

    python health_api.py --model demo --health-port 8000
"""

from __future__ import annotations

import sys

from service.health.api import Sidecar, create_app

__all__ = ["Sidecar", "create_app"]

if __name__ == "__main__":
    from service.main import main
    from service.process.exit_file import exit_now

    exit_now(
        main(
            sys.argv[1:],
            prog="health_api.py",
            description="Serve a model with the health API and no page. Options of the page are ignored.",
        )
    )
