"""The deployments of the application, before Ray runs them."""

from __future__ import annotations

from cluster.app import START_ATTEMPTS, application
from cluster.arguments import Arguments


def test_every_replica_of_the_first_deployment_has_its_attempts() -> None:
    """Ray counts failed starts of all replicas together: three of sixteen must not end the deployment."""
    front = application(Arguments(replicas=16))._bound_deployment
    engines = front.init_args[0]._bound_deployment
    assert engines._deployment_config.max_constructor_retry_count == 16 * START_ATTEMPTS
