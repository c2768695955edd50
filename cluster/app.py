"""The Ray Serve application: engines, and the HTTP front over them."""

from __future__ import annotations

from typing import Any, Final

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from api.calls import max_concurrent
from cluster.arguments import INGRESS, JUDGE, Arguments
from cluster.ingress import Ingress
from cluster.readiness import STALE_SECONDS
from cluster.replica import Judge
from cluster.routing import STATS_SECONDS
from service.contract.times import STOP_TIMEOUT

#: Two, since the only one would be missing during a rolling update and after a crash.
INGRESS_REPLICAS: Final = 2
INGRESS_CPUS: Final = 0.1  # more than nothing, which would be placed on a head node that computes nothing
INGRESS_ONGOING: Final = 256  # requests in one of them; more wait in Ray's proxy
INGRESS_QUEUED: Final = 64  # requests that wait in the proxy; more are answered 503 there
HEALTH_PERIOD: Final = 2.0  # seconds
#: Seconds. Ray replaces a replica after three failed checks in a row; the number is fixed. They end within
#: the default time limit of a request, so that those of a stopped replica are repeated in time.
HEALTH_TIMEOUT: Final = 4.0
START_ATTEMPTS: Final = 3  # of each replica; Ray counts those of all together


def build(args: dict[str, Any]) -> Application:
    """Return the application of ``args``, the fields of ``Arguments``. Raises ArgumentError.

    The import path of a Serve configuration is ``cluster.app:build``.
    """
    return application(Arguments.read(args))


def application(arguments: Arguments, judge: type[Judge] = Judge) -> Application:
    """Join both deployments. Tests pass a ``judge`` with faults."""
    # Access logs would contain paths and queries, which may contain anything that a client sends.
    logging_config = LoggingConfig(enable_access_log=False)
    router = RequestRouterConfig(
        request_router_class="cluster.routing:ReadyRouter",
        request_routing_stats_period_s=STATS_SECONDS,
        request_routing_stats_timeout_s=STALE_SECONDS,
    )
    engines: Any = serve.deployment(
        judge,
        name=JUDGE,
        # An engine refuses by its own queue, which is fair between callers and knows how long requests take.
        max_ongoing_requests=max_concurrent(arguments.settings()),
        max_queued_requests=arguments.settings().queue_size,
        health_check_period_s=HEALTH_PERIOD,
        health_check_timeout_s=HEALTH_TIMEOUT,
        graceful_shutdown_timeout_s=STOP_TIMEOUT,
        graceful_shutdown_wait_loop_s=1,
        max_constructor_retry_count=START_ATTEMPTS * arguments.replicas,
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
        request_router_config=router,
        logging_config=logging_config,
        **_scale(arguments),
    )
    front: Any = serve.deployment(
        Ingress,
        name=INGRESS,
        num_replicas=INGRESS_REPLICAS,
        max_ongoing_requests=INGRESS_ONGOING,
        max_queued_requests=INGRESS_QUEUED,
        health_check_period_s=HEALTH_PERIOD,
        health_check_timeout_s=HEALTH_TIMEOUT,
        graceful_shutdown_timeout_s=STOP_TIMEOUT,
        graceful_shutdown_wait_loop_s=1,
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        request_router_config=router,
        logging_config=logging_config,
    )
    flags = arguments.service_flags
    bound: Application = front.bind(engines.bind(flags), flags)
    return bound


def _scale(arguments: Arguments) -> dict[str, Any]:
    """Return how many engines there are. Ray counts the requests that an engine has accepted and not
    answered: those in its queue and in its batch."""
    if arguments.max_replicas is None or arguments.max_replicas == arguments.replicas:
        return {"num_replicas": arguments.replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=arguments.replicas,
            max_replicas=arguments.max_replicas,
            target_ongoing_requests=arguments.batch,
            upscale_delay_s=10,
            downscale_delay_s=300,
        )
    }
