"""Print the OpenAPI document, which is kept in docs/openapi.json: ``python -m api > docs/openapi.json``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from api.app import create_api
from api.schema import text_of
from service.settings import Settings


def main() -> None:
    with ThreadPoolExecutor(1) as intake:
        print(text_of(create_api(cast(Any, None), Settings(), intake=intake).schema), end="")


if __name__ == "__main__":
    main()
