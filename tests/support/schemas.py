"""Random JSON schemas, of the parts that people use, each with something that is valid by it."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]

_WORDS = ("name", "size", "colour", "Straße", "is_open", "x", "note")
_PATTERNS = ("^[a-z]{2,6}$", "^[A-Z][a-z]+-[0-9]{3}$", "^(yes|no|maybe)$", "^\\d{4}-\\d{2}$")


def random_schema(rng: random.Random) -> Schema:
    """An object: types, enums, constants, bounds, patterns, nested objects and arrays, unions."""
    return _object(rng, depth=2)


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(_WORDS, rng.randint(1, 4))
    schema: Schema = {
        "type": "object",
        "properties": {name: _any(rng, depth - 1) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
        "additionalProperties": False,
    }
    if depth == 2 and rng.random() < 0.2:
        schema["$defs"] = {"part": _any(rng, 0)}
        schema["properties"]["part"] = {"$ref": "#/$defs/part"}
        schema["required"].append("part")
    return schema


def _any(rng: random.Random, depth: int) -> Schema:
    simple = [_string, _string, _integer, _number, _constant, _simple]
    kinds = simple if depth <= 0 else [*simple, _nested, _array, _union]
    return rng.choice(kinds)(rng, depth)


def _string(rng: random.Random, depth: int) -> Schema:
    match rng.randrange(4):
        case 0:
            return {"type": "string", "pattern": rng.choice(_PATTERNS)}
        case 1:
            return {"type": "string", "format": rng.choice(("date", "uuid", "time"))}
        case 2:
            return {"type": "string", "enum": rng.sample(("red", "green", 'a "b"', "ü", ""), 3)}
    least = rng.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 12)}


def _integer(rng: random.Random, depth: int) -> Schema:
    low = rng.randint(-200, 200)
    if rng.random() < 0.3:
        return {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 9}
    if rng.random() < 0.3:
        return {"type": "integer", "minimum": 0, "maximum": 500, "multipleOf": rng.choice((5, 7))}
    return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 300)}


def _number(rng: random.Random, depth: int) -> Schema:
    low = rng.randint(-9, 9)
    return {"type": "number", "exclusiveMinimum": low, "maximum": low + rng.randint(1, 50)}


def _constant(rng: random.Random, depth: int) -> Schema:
    if rng.random() < 0.5:
        return {"const": rng.choice(("fixed", 7, None, True))}
    return {"enum": rng.sample(["one", 2, 3.5, None, False], 3)}


def _simple(rng: random.Random, depth: int) -> Schema:
    return {"type": rng.choice(("boolean", "null"))}


def _nested(rng: random.Random, depth: int) -> Schema:
    return _object(rng, depth)


def _array(rng: random.Random, depth: int) -> Schema:
    if rng.random() < 0.2:
        items = [_any(rng, depth - 1), _any(rng, depth - 1)]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}
    least = rng.randint(0, 2)
    most = least + rng.randint(0, 2)
    return {"type": "array", "items": _any(rng, depth - 1), "minItems": least, "maxItems": most}


def _union(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(rng, depth - 1) for _ in range(2)]}
