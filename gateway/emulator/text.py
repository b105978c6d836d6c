"""What an imitated model says: the same words for the same seed, conversation and position."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

WORDS = tuple(
    """
    sea harbour wind lantern slow river morning stone bread window quiet road garden copper bell
    winter paper bridge small island letter green hill amber station north field candle silver
    rain door summer apple cloud market orange wooden boat music early train yellow forest salt
    café naïve größer señor 海 море ångström
    """.split()  # noqa: SIM905
)


def word(seed: int, conversation: str, position: int) -> str:
    """One token, with the space before it that all but the first have."""
    chosen = WORDS[_draw(seed, conversation, position) % len(WORDS)]
    return f" {chosen}" if position else chosen.capitalize()


def natural_length(seed: int, conversation: str) -> int:
    """Tokens after which the model stops by itself."""
    return 12 + _draw(seed, conversation, -1) % 20


MOST_ITEMS = 1000
"""Of arrays, and of arrays in arrays, taken together."""


def plausible(schema: object, depth: int = 0, room: int = MOST_ITEMS) -> Any:
    """A value that a JSON schema allows, as far as its types, enums and properties say. Raises
    ValueError for what no schema says there."""
    if not isinstance(schema, dict) or depth > 8:
        return WORDS[0]
    if "const" in schema:
        return schema["const"]
    match schema.get("enum"):
        case None:
            pass
        case [first, *_]:
            return first
        case _:
            raise ValueError("an enum must be a list with something in it")
    match schema.get("type", "object" if "properties" in schema else "string"):
        case str(kind) | [str(kind), *_]:
            pass
        case _:
            raise ValueError("a type must be a name or a list of names")
    if kind == "object":
        properties = schema.get("properties") or {}
        if not isinstance(properties, dict):
            raise ValueError("properties must be an object")
        return {name: plausible(part, depth + 1, room) for name, part in properties.items()}
    if kind == "array":
        least = schema.get("minItems", 1)
        if type(least) is not int or not 0 <= least <= room:
            raise ValueError(f"minItems must be a number up to {room} here")
        times = max(1, least)
        return [plausible(schema.get("items"), depth + 1, room // times)] * times
    simple = {"integer": 7, "number": 0.5, "boolean": True, "null": None}
    return simple.get(kind, WORDS[0])


def _draw(seed: int, conversation: str, position: int) -> int:
    key = f"{seed}\0{position}\0{conversation}".encode("utf-8", "replace")
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")
