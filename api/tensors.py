"""Tensors of the Open Inference Protocol: BYTES and FP32, in JSON or raw after it (binary extension)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from api.bodies import parse_json
from api.problems import Problem
from service.contract.causes import ApiCode

HEADER_LENGTH: Final = "inference-header-content-length"
_LENGTH: Final = struct.Struct("<I")
_FP32: Final = struct.Struct("<f")


@dataclass(frozen=True, slots=True)
class Input:
    """A BYTES tensor of one dimension. ``raw``: its elements were sent raw, not as strings in JSON."""

    elements: Sequence[bytes]
    raw: bool


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor to send. ``data`` is flat: bytes for BYTES, floats for FP32."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: Sequence[bytes] | Sequence[float]


def split(body: bytes, header_length: str | None, most_values: int) -> tuple[dict[str, Any], memoryview]:
    """Return the JSON and the raw data of a request. Raises Problem."""
    if header_length is None:
        return parse_json(body, most_values), memoryview(b"")
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) <= 12):
        raise _mismatch()
    size = int(header_length)
    if size > len(body):
        raise _mismatch()
    return parse_json(body[:size], most_values), memoryview(body)[size:]


def inputs(content: Mapping[str, Any], raw: memoryview, names: Sequence[str]) -> dict[str, Input]:
    """Return the input tensors by name. Raises Problem."""
    listed = content.get("inputs")
    if not isinstance(listed, list) or len(listed) > len(names):
        raise invalid()
    found: dict[str, Input] = {}
    for tensor in listed:
        if not isinstance(tensor, dict) or tensor.get("datatype") != "BYTES":
            raise invalid()
        name, size = tensor.get("name"), parameter(tensor, "binary_data_size")
        if not isinstance(name, str) or name not in names or name in found:
            raise invalid()
        if size is None:
            elements = _strings(tensor.get("data"))
        else:
            if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(raw):
                raise _mismatch()
            elements, raw = _unpack(raw[:size]), raw[size:]
        if tensor.get("shape") != [len(elements)]:
            raise invalid()
        found[name] = Input(elements, raw=size is not None)
    if len(raw):
        raise _mismatch()
    return found


def parameter(owner: Mapping[str, Any], name: str) -> Any:
    """Return a parameter of a request or a tensor, or None. Raises Problem."""
    parameters = owner.get("parameters", {})
    if not isinstance(parameters, dict):
        raise invalid()
    return parameters.get(name)


def encoded(output: Output, raw: bool) -> tuple[dict[str, Any], bytes]:
    """Return the JSON and the raw data of an output."""
    head: dict[str, Any] = {
        "name": output.name,
        "datatype": output.datatype,
        "shape": list(output.shape),
    }
    if not raw:
        return {**head, "data": [one.decode() if isinstance(one, bytes) else one for one in output.data]}, b""
    data = b"".join(
        _LENGTH.pack(len(one)) + one if isinstance(one, bytes) else _FP32.pack(one) for one in output.data
    )
    return {**head, "parameters": {"binary_data_size": len(data)}}, data


def invalid() -> Problem:
    return Problem(ApiCode.INVALID_FIELD, "invalid_field.tensors")


def _mismatch() -> Problem:
    return Problem(ApiCode.MALFORMED, "malformed.tensors")


def _strings(data: object) -> list[bytes]:
    if not isinstance(data, list) or not all(isinstance(one, str) for one in data):
        raise invalid()
    return [one.encode("utf-8", "surrogatepass") for one in data]


def _unpack(raw: memoryview) -> list[bytes]:
    """Return the elements: each is its length in 4 bytes, little-endian, and its bytes. Raises Problem."""
    elements: list[bytes] = []
    while len(raw):
        if len(raw) < _LENGTH.size:
            raise _mismatch()
        (size,) = _LENGTH.unpack_from(raw)
        raw = raw[_LENGTH.size :]
        if size > len(raw) or len(elements) > 64:
            raise _mismatch()
        elements.append(bytes(raw[:size]))
        raw = raw[size:]
    return elements
