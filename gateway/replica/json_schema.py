"""A JSON schema as llguidance reads it rightly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeGuard

_SCHEMA = frozenset(("additionalItems", "additionalProperties", "contains", "items"))
_SCHEMAS = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_NAMED = frozenset(("$defs", "definitions", "patternProperties", "properties"))
"""Keywords that hold a schema, a list of them, or some by names."""


def inclusive(schema: Mapping[str, object]) -> dict[str, object]:
    """The same without exclusive bounds, of which llguidance (1.9) lets 2.0 pass for 2.

    An integer's go one further, and a number's by 1e-9, or by 1e-12 of it if that is more: what
    lies between is not said.
    """
    given = {name: _inside(name, value) for name, value in schema.items()}
    whole = given.get("type") == "integer"
    low, high = given.get("exclusiveMinimum"), given.get("exclusiveMaximum")
    if _is_number(low):
        del given["exclusiveMinimum"]
        bound = _beyond(low, 1, whole=whole)
        least = given.get("minimum")
        given["minimum"] = max(bound, least) if _is_number(least) else bound
    if _is_number(high):
        del given["exclusiveMaximum"]
        bound = _beyond(high, -1, whole=whole)
        most = given.get("maximum")
        given["maximum"] = min(bound, most) if _is_number(most) else bound
    return given


def _inside(name: str, value: object) -> object:
    match value:
        case dict() if name in _NAMED:
            return {key: _one(each) for key, each in value.items()}
        case dict() if name in _SCHEMA:
            return inclusive(value)
        case list() if name in _SCHEMAS:
            return [_one(each) for each in value]
    return value


def _one(schema: object) -> object:
    """True and false are schemas too."""
    return inclusive(schema) if isinstance(schema, dict) else schema


def _beyond(bound: float, direction: int, *, whole: bool) -> float:
    if whole:
        return math.floor(bound) + 1 if direction > 0 else math.ceil(bound) - 1
    return round(bound + direction * max(1e-9, abs(bound) * 1e-12), 12)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
