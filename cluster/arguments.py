"""The arguments of ``cluster.app:build``, checked strictly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contract.errors import SettingsError
from service.settings import Settings

#: Names of the deployments in Ray.
JUDGE: Final = "judge"
INGRESS: Final = "ingress"
DEPLOYMENTS: Final = (JUDGE, INGRESS)
#: A replica's health API is for its own node unless a flag says otherwise, and on any free port, since a node
#: may run several. With --health-port P, replica N listens on P + N.
REPLICA_FLAGS: Final = ("--health-host", "127.0.0.1", "--health-port", "0")
CPU_BATCH: Final = 4  # what --max-batch 0 means, see service.settings
GPU_BATCH: Final = 32


class ArgumentError(ValueError):
    """An argument of ``build`` is unknown or not allowed."""


class Arguments(BaseModel):
    """What a cluster is made of.

    Attributes:
        replicas: engines at least.
        max_replicas: engines at most; more than ``replicas`` turns autoscaling on.
        cpus: processor cores that Ray reserves for each engine, and its threads if it uses no GPU.
        gpus: the share of a GPU that Ray reserves for each engine: 0, a fraction, or a whole number.
        flags: flags of the service, as of web_app.py. ``--run-dir`` is the folder of the replicas' folders.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    cpus: Annotated[int, Field(ge=1, le=1024)] = 1
    gpus: Annotated[float, Field(ge=0, le=64)] = 0
    flags: list[str] = []

    @model_validator(mode="after")
    def _check_together(self) -> Arguments:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than replicas {self.replicas}")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError("gpus above 1 must be a whole number")
        self.settings()
        return self

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Arguments:
        """Return the checked arguments. Raises ArgumentError naming each that is wrong."""
        try:
            return cls(**given)
        except ValidationError as error:
            allowed = ", ".join(cls.model_fields)
            wrong = [f"{'.'.join(map(str, one['loc'])) or 'all'}: {one['msg']}" for one in error.errors()]
            raise ArgumentError(f"{'; '.join(wrong)}. Allowed arguments: {allowed}.") from None

    @property
    def service_flags(self) -> list[str]:
        """The flags of each engine; those given win over the cluster's defaults."""
        threads = [] if self.gpus else ["--threads", str(self.cpus)]
        return [*REPLICA_FLAGS, *threads, *self.flags]

    def settings(self) -> Settings:
        """Return the settings of each engine in this process's environment. Raises ValueError."""
        return settings_of(self.service_flags)

    @property
    def batch(self) -> int:
        """How many requests an engine computes together."""
        return self.settings().max_batch or (GPU_BATCH if self.gpus else CPU_BATCH)


def settings_of(flags: list[str]) -> Settings:
    """Read the service's flags and this process's environment. Raises ValueError, as SettingsError cannot be
    unpickled in another process."""
    try:
        return Settings.from_args(flags, os.environ, prog="cluster")
    except SettingsError as error:
        raise ValueError(f"{error.message} {error.remedy} ({error.code})") from None
