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


def plausible(schema: object, depth: int = 0) -> Any:
    """A value that a JSON schema allows, as far as its types, enums and properties say."""
    if not isinstance(schema, dict) or depth > 8:
        return WORDS[0]
    if "const" in schema:
        return schema["const"]
    if enum := schema.get("enum"):
        return enum[0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: plausible(part, depth + 1) for name, part in properties.items()}
    if kind == "array":
        return [plausible(schema.get("items"), depth + 1)] * max(1, int(schema.get("minItems", 1)))
    simple = {"integer": 7, "number": 0.5, "boolean": True, "null": None}
    return simple.get(kind, WORDS[0])


def _draw(seed: int, conversation: str, position: int) -> int:
    key = f"{seed}\0{position}\0{conversation}".encode("utf-8", "replace")
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")
