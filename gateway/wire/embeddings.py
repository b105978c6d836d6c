"""OpenAI's embeddings API: what is asked, and vectors as numbers or as base64 of them.

Both SDKs ask for base64 by default, and some endpoints do not know it: so a vector goes to the
client as it was asked for, however it came. In base64 it is float32, little-endian.
"""

from __future__ import annotations

import binascii
import sys
from array import array
from base64 import b64decode, b64encode
from typing import Any

from gateway.domain import Json
from gateway.errors import InvalidRequest, UpstreamBroken
from gateway.wire.prefix import canonical

MAX_INPUTS = 2048
"""As many as OpenAI takes."""

ENCODINGS = ("float", "base64")


def check_asked(body: Json) -> None:
    """Raises InvalidRequest."""
    if body.get("stream"):
        raise InvalidRequest("embeddings are not streamed", param="stream")
    if body.get("encoding_format") not in (None, *ENCODINGS):
        said = f"'encoding_format' must be one of: {', '.join(ENCODINGS)}"
        raise InvalidRequest(said, param="encoding_format")
    given = body["input"]
    if isinstance(given, str) or _is_tokens(given):
        return
    if len(given) > MAX_INPUTS:
        raise InvalidRequest(f"'input' must have at most {MAX_INPUTS} items", param="input")
    kind = str if isinstance(given[0], str) else list
    for index, item in enumerate(given):
        where = f"input[{index}]"
        if type(item) is not kind or (kind is list and item and not _is_tokens(item)):
            said = "must be a string like the others" if kind is str else "must be token ids"
            raise InvalidRequest(f"{where} {said}", param=where)
        if not item:
            raise InvalidRequest(f"{where} must not be empty", param=where)


def input_bytes(model: str, body: Json) -> bytes:
    given = body["input"]
    text = given.encode("utf-8", "surrogatepass") if isinstance(given, str) else canonical(given)
    return canonical(model) + text


def count_inputs(body: Json) -> int:
    given = body["input"]
    return 1 if isinstance(given, str) or _is_tokens(given) else len(given)


def count_ids(body: Json) -> int | None:
    """Of all inputs, where they are token ids."""
    given = body["input"]
    if _is_tokens(given):
        return len(given)
    if isinstance(given, list) and all(map(_is_tokens, given)):
        return sum(map(len, given))
    return None


def to_asked(payload: dict[str, Any], asked: Json) -> None:
    """An answer's vectors as the client asked for them, in place. Raises UpstreamBroken."""
    data = payload.get("data")
    if not isinstance(data, list) or len(data) != count_inputs(asked):
        raise UpstreamBroken("the endpoint sent another number of vectors than were asked for")
    as_base64 = asked.get("encoding_format") == "base64"
    for index, item in enumerate(data):
        if not isinstance(item, dict):
            raise UpstreamBroken("the endpoint sent something that is not a vector")
        item.setdefault("object", "embedding")
        item.setdefault("index", index)
        item["embedding"] = _as(item.get("embedding"), as_base64)
    payload["object"] = "list"


def _as(vector: Any, as_base64: bool) -> str | list[float]:
    try:
        match vector:
            case str() if as_base64 and _holds_floats(vector):
                return vector
            case str():
                return _little_endian(array("f", b64decode(vector, validate=True))).tolist()
            case [*_] if as_base64:
                return b64encode(_little_endian(array("f", vector)).tobytes()).decode()
            case [*numbers] if all(isinstance(number, int | float) for number in numbers):
                return numbers
    except (TypeError, ValueError, OverflowError, binascii.Error):
        pass
    raise UpstreamBroken("the endpoint sent something that is not a vector")


def _holds_floats(text: str) -> bool:
    """By its length: what goes on as it came is not read."""
    return len(text) % 4 == 0 and (len(text) // 4 * 3 - text[-2:].count("=")) % 4 == 0


def _little_endian(numbers: array[float]) -> array[float]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)
