"""The parts of a log message, as --log-format json writes them."""

from __future__ import annotations

import pytest

from service.contract.log_line import fields, join, split

MESSAGES = [
    "STARTED | PID=17",
    "REQUEST_START | req_1795000000_ab12cd34 | TEXT_LEN=24 | IMG_SIZE=(512, 384)",
    "HUNG | req_1_a,req_1_b | RUNNING=90.00s",
    "FATAL",
    "",
    " | ",
    "EVENT | MSG=a | b | lower=c | D",  # a message that contains the separator
    "EVENT | A=1 | B=2 | A=3",  # a key twice
    "EVENT | req_1 | event=x | request_id=y | =z",
    'EVENT | MSG="quoted" {braces} \\ back | EMPTY=',
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_restored_exactly_from_its_parts(message: str) -> None:
    assert join(split(message)) == message


def test_the_parts_are_the_event_the_request_and_the_fields() -> None:
    message = "REQUEST_END | req_1_a" + fields(label="Yes", device=None, duration="0.10s")
    assert split(message) == {
        "event": "REQUEST_END",
        "request_id": "req_1_a",
        "LABEL": "Yes",
        "DURATION": "0.10s",
    }
