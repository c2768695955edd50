"""The errors of the service under the name that scripts import; they live in ``service.contract.errors``."""

from service.contract.errors import *  # noqa: F403
