"""The service on Ray Serve: engines as replicas, an HTTP front over them. The only code that imports Ray.

    python -m cluster            one machine, loopback only
    serve deploy CONFIG          on another Ray cluster; its import_path, or a RayService's: cluster.app:build

``replica``: one engine with its health. ``ingress``: HTTP to a replica and back. ``routing``: which replica.
``arguments``: what can be configured. ``app``: both deployments joined. docs/scaling.md describes it.
"""
