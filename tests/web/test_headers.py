"""The headers that decide where Gradio thinks it is, and whose request it is."""

from __future__ import annotations

import random
from typing import Any

import pytest
from gradio.route_utils import get_root_url
from starlette.requests import Request as StarletteRequest

from page.bodies import Refused
from page.headers import SINGLE, check_headers, for_gradio, is_host, is_json


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
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    assert is_host(host)
    assert refused((b"host", host.encode())) is None


def test_of_every_host_that_is_taken_gradio_can_make_an_address() -> None:
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
def test_any_other_host_is_refused(host: str) -> None:
    assert not is_host(host)
    assert refused((b"host", host.encode("latin-1"))) == 400


@pytest.mark.parametrize("name", SINGLE)
def test_what_may_be_there_once_is(name: bytes) -> None:
    assert refused((name, b"localhost"), (name, b"localhost")) == 400


@pytest.mark.parametrize("asked", [b"bytes=0-", b"bytes=0-0", b"bytes=5-9", b"bytes=-5"])
def test_a_range_of_bytes_may_be_asked_for(asked: bytes) -> None:
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
def test_any_other_range_cannot_be_had(asked: bytes) -> None:
    assert refused((b"range", asked)) == 416


def test_a_body_comes_as_it_is() -> None:
    assert refused((b"content-encoding", b"identity")) is None
    assert refused((b"content-encoding", b"gzip")) == 415


SAID: list[tuple[bytes, bytes]] = [
    (b"host", b"page.example"),
    (b"x-forwarded-host", b"evil.example"),
    (b"x-forwarded-proto", b"https"),
    (b"x-gradio-server", b"http://evil.example"),
    (b"forwarded", b"host=evil.example"),
]


def test_what_a_proxy_says_counts_from_one_that_is_trusted() -> None:
    assert for_gradio(SAID, trusted=False) == SAID[:1]
    assert for_gradio(SAID, trusted=True) == SAID[:3]


@pytest.mark.parametrize(
    "said", [(b"x-forwarded-host", b"["), (b"x-forwarded-host", b"a, b"), (b"x-forwarded-proto", b"x://")]
)
def test_nonsense_does_not_count_from_anybody(said: Any) -> None:
    assert for_gradio([said], trusted=True) == []


def test_a_hop_that_was_added_in_a_line_of_its_own_is_the_last() -> None:
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
def test_json_is_said_to_be_json(kind: bytes, expected: bool) -> None:
    assert is_json([(b"content-type", kind)]) is expected
