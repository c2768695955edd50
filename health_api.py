"""The health API for monitors and load balancers, a thread of the service's process.

    GET /health          JSON; 200 if the model is loaded and inference is proven, else 503
    GET /health/simple   OK or FAIL
    GET /livez           liveness      GET /readyz   readiness      GET /startupz   startup
    GET /metrics         Prometheus metrics

As a program, serve a model with this API and without the page:

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
