"""Validation of the headers from which Gradio builds URLs, and of the caller's address."""

from __future__ import annotations

import random
from typing import Any

import pytest
from gradio.route_utils import get_root_url
from starlette.requests import Request as StarletteRequest

from page.forwarding import for_gradio
from service.http.bodies import Refused
from service.http.headers import SINGLE, check_headers, is_host, is_json


def refused(*headers: tuple[bytes, bytes]) -> int | None:
    try:
        check_headers({"headers": list(headers)})
    except Refused as error:
        return error.status
    return None


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "127.0.0.1:7860",
        "page.example",
        "PAGE.example:443",
        "my_service:80",
        "[::1]",
        "[fe80::1]:7860",
        "a.",
    ],
)
def test_valid_hosts_are_accepted(host: str) -> None:
    assert is_host(host)
    assert refused((b"host", host.encode())) is None


def test_gradio_can_build_a_url_from_every_accepted_host() -> None:
    chance = random.Random(7)
    for _ in range(20_000):
        host = "".join(chance.choice("aA09.-_x:n1[]") for _ in range(chance.randint(1, 12)))
        if is_host(host):
            scope = {
                "type": "http",
                "path": "/config",
                "query_string": b"",
                "headers": [(b"host", host.encode())],
            }
            get_root_url(StarletteRequest({**scope, "scheme": "http"}), "/config", "/vqa")


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        "a b",
        "a/b",
        "a:b",
        "a:",
        "a:123456",
        "a@b",
        "[",
        "[]",
        "[::1",
        "::1",
        "[zz::1]",
        "[1.2.3.4]",
        "\xe9",
        "a?x",
        "a#x",
        "a\\b",
        "999.1.1.1",
        "%41",
        ".",
        "-",
        "x" * 300,
    ],
)
def test_invalid_hosts_are_refused(host: str) -> None:
    assert not is_host(host)
    assert refused((b"host", host.encode("latin-1"))) == 400


@pytest.mark.parametrize("name", SINGLE)
def test_duplicate_headers_are_refused(name: bytes) -> None:
    assert refused((name, b"localhost"), (name, b"localhost")) == 400


@pytest.mark.parametrize("asked", [b"bytes=0-", b"bytes=0-0", b"bytes=5-9", b"bytes=-5"])
def test_valid_ranges_are_accepted(asked: bytes) -> None:
    assert refused((b"range", asked)) is None


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"bytes=",
        b"bytes=-",
        b"bytes=a-b",
        b"bytes=5-2",
        b"bytes=0-1-2",
        b"bytes=0-0,1-1",
        b"bytes=\xb2-\xb2",
        b"lines=0-1",
        b"bytes=" + b"9" * 5000 + b"-",
    ],
    ids=lambda asked: repr(asked[:20]),
)
def test_invalid_ranges_are_refused(asked: bytes) -> None:
    assert refused((b"range", asked)) == 416


def test_content_encoding_is_refused() -> None:
    assert refused((b"content-encoding", b"identity")) is None
    assert refused((b"content-encoding", b"gzip")) == 415


SAID: list[tuple[bytes, bytes]] = [
    (b"host", b"page.example"),
    (b"x-forwarded-host", b"evil.example"),
    (b"x-forwarded-proto", b"https"),
    (b"x-gradio-server", b"http://evil.example"),
    (b"forwarded", b"host=evil.example"),
]


def test_forwarding_headers_count_only_from_a_trusted_proxy() -> None:
    assert for_gradio(SAID, trusted=False) == SAID[:1]
    assert for_gradio(SAID, trusted=True) == SAID[:3]


@pytest.mark.parametrize(
    "said", [(b"x-forwarded-host", b"["), (b"x-forwarded-host", b"a, b"), (b"x-forwarded-proto", b"x://")]
)
def test_invalid_forwarding_headers_are_dropped(said: Any) -> None:
    assert for_gradio([said], trusted=True) == []


def test_lines_of_forwarded_for_are_joined_in_order() -> None:
    said = [(b"x-forwarded-for", b"1.1.1.1, 2.2.2.2"), (b"a", b"b"), (b"x-forwarded-for", b"3.3.3.3")]
    assert for_gradio(said, trusted=False) == [
        (b"a", b"b"),
        (b"x-forwarded-for", b"1.1.1.1, 2.2.2.2, 3.3.3.3"),
    ]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (b"application/json", True),
        (b"Application/JSON; charset=utf-8", True),
        (b'application/json;charset="UTF-8"', True),
        (b"application/json; charset=punycode", False),
        (b"text/plain", False),
        (b"text/plain; application/json", False),
        (b"application/json, text/plain", False),
        (b"", False),
    ],
)
def test_the_content_type_of_json(kind: bytes, expected: bool) -> None:
    assert is_json([(b"content-type", kind)]) is expected


def test_keys_do_not_reach_gradio() -> None:
    said = [(b"authorization", b"Bearer a"), (b"x-api-key", b"a"), (b"accept", b"*/*")]
    assert for_gradio(said, trusted=True) == said[2:]
