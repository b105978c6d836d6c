"""A JSON object from a caller's bytes: what every endpoint's parser would read the same way."""

from __future__ import annotations

import json
import math
import sys
from itertools import chain
from typing import Any, NoReturn

from gateway.errors import InvalidRequest

MAX_NESTING = 100
"""Levels of arrays and objects; CPython's JSON parser gives up near 1,000, others far earlier."""

MAX_PARTS = 250_000
"""Strings, names too, and arrays and objects. A conversation of as many messages as may be has some
100,000; each takes up to a microsecond of the event loop, with all that is done about it."""

MAX_VALUES = 1_250_000
"""With numbers, which take a fifth of that: a prompt, or all inputs, may be a million token ids."""

LARGEST = int(sys.float_info.max)
"""Most parsers read an integer as a float, and what is larger not at all."""


def parse_object(raw: bytes) -> dict[str, Any]:
    """Of a key that stands twice, the last counts. Raises InvalidRequest, quoting nothing."""
    _check_counts(raw)
    try:
        # Decoded here: `json.loads` would also take UTF-16 and 32, and halves of surrogate pairs.
        body = DECODER.decode(raw.decode())
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not valid UTF-8") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as exc:
        raise InvalidRequest(f"the body is not valid JSON at character {exc.pos}") from None
    except ValueError:  # CPython reads integers of up to 4,300 digits
        raise _too_large() from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    _check_values(body)
    return body


def _check_counts(raw: bytes) -> None:
    """Before anything is made of them: a large body of small things is seconds of decoding."""
    if len(raw) <= 2 * MAX_PARTS:
        return
    marks = raw.translate(None, NO_MARKS)
    if _are_few(marks, marks.count(b'"')):
        return
    # Texts may hold any number of them: counted again without texts.
    marks = raw.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, NO_MARKS)
    quotes = marks.count(b'"')
    if quotes > 2 * MAX_PARTS or not _are_few(b"".join(marks.split(b'"')[::2]), quotes):
        raise InvalidRequest(
            f"the body has more than {MAX_PARTS} strings, arrays and objects, "
            f"or more than {MAX_VALUES} values"
        )


NO_MARKS = bytes(set(range(256)) - set(b'"[{,'))


def _are_few(marks: bytes, quotes: int) -> bool:
    parts = quotes // 2 + marks.count(b"[") + marks.count(b"{")
    return parts <= MAX_PARTS and marks.count(b",") < MAX_VALUES


def _refuse(constant: str) -> NoReturn:
    raise InvalidRequest(f"the body is not valid JSON: it has {constant}")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):  # it could not be written as JSON again
        raise _too_large()
    return value


DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _check_values(body: dict[str, Any]) -> None:
    """Level by level, without recursion, for whoever sends ten thousand."""
    depth, level = 0, list[Any]([body])
    while level:
        depth += 1
        if depth > MAX_NESTING:
            raise _too_deep()
        values = [*chain.from_iterable(v.values() if type(v) is dict else v for v in level)]
        kinds = {*map(type, values)}
        if int in kinds:
            integers = values if kinds == {int} else [v for v in values if type(v) is int]
            if max(integers) > LARGEST or min(integers) < -LARGEST:
                raise _too_large()
        level = [v for v in values if type(v) is dict or type(v) is list] if kinds & NESTS else []


NESTS = {dict, list}


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"the body nests deeper than {MAX_NESTING} levels")


def _too_large() -> InvalidRequest:
    return InvalidRequest("the body has a number that is too large")
