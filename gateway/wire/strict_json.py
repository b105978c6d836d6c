"""A JSON object from a caller's bytes: what every endpoint's parser would read the same way."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from gateway.errors import InvalidRequest

MAX_NESTING = 100
"""Levels of arrays and objects; CPython's JSON parser gives up near 1,000, others far earlier."""


def parse_object(raw: bytes) -> dict[str, Any]:
    """Of a key that stands twice, the last counts. Raises InvalidRequest, quoting nothing."""
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
    if _nesting(body) > MAX_NESTING:
        raise _too_deep()
    return body


def _refuse(constant: str) -> NoReturn:
    raise InvalidRequest(f"the body is not valid JSON: it has {constant}")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):  # it could not be written as JSON again
        raise _too_large()
    return value


DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _nesting(value: Any) -> int:
    """Levels of arrays and objects; without recursion, for whoever sends ten thousand."""
    depth, level = 0, [value]
    while level:
        depth += 1
        children: list[Any] = []
        for item in level:
            values = item.values() if type(item) is dict else item
            children += [v for v in values if type(v) is dict or type(v) is list]
        level = children
    return depth


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"the body nests deeper than {MAX_NESTING} levels")


def _too_large() -> InvalidRequest:
    return InvalidRequest("the body has a number that is too large")
