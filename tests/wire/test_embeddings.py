"""Vectors as they come, to vectors as they are asked for."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from typing import Any

import pytest

from gateway.domain import Operation
from gateway.errors import UpstreamBroken
from gateway.wire.openai import TenantKeys, parse_request, parse_vectors

KEYS = TenantKeys.derive(b"", "t")
NUMBERS = [0.5, -1.25, 3.0]
PACKED = b64encode(struct.pack("<3f", *NUMBERS)).decode()


def answered(data: object, **asked: Any) -> Any:
    fields = {"model": "m", "input": "a", **asked}
    request = parse_request(Operation.EMBEDDINGS, json.dumps(fields).encode(), KEYS)
    told = {"data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    return parse_vectors(json.dumps(told).encode(), request)


@pytest.mark.parametrize("came", [NUMBERS, PACKED])
@pytest.mark.parametrize(
    ("asked", "goes"), [(None, NUMBERS), ("float", NUMBERS), ("base64", PACKED)]
)
def test_however_it_came_it_goes_as_it_was_asked_for(
    came: object, asked: str | None, goes: object
) -> None:
    event = answered([{"embedding": came}], encoding_format=asked)
    assert event.payload["data"] == [{"embedding": goes, "object": "embedding", "index": 0}]
    assert (event.payload["object"], event.usage.prompt_tokens) == ("list", 3)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        [{"embedding": NUMBERS}] * 2,  # more than were asked for
        ["a"],
        [{}],
        [{"embedding": "not base64!"}],
        [{"embedding": b64encode(b"12345").decode()}],  # no whole number of floats
        [{"embedding": ["a"]}],
        [{"embedding": {"a": 1}}],
    ],
)
@pytest.mark.parametrize("asked", ["float", "base64"])
def test_what_is_no_vector_is_the_endpoints_fault(data: object, asked: str) -> None:
    if asked == "base64" and data == [{"embedding": "not base64!"}]:
        data = [{"embedding": None}]  # what is asked for as text is not read
    with pytest.raises(UpstreamBroken):
        answered(data, encoding_format=asked)
