"""JSON as orjson reads and writes it, and the standard library where orjson will not.

For what endpoints send and what we pass on. A caller's own bytes are read by `strict_json.py`.
"""

from __future__ import annotations

import json
from typing import Any

import orjson


def loads(raw: bytes) -> Any:
    """Raises ValueError or RecursionError."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)  # halves of surrogate pairs, NaN, UTF-16: others send them


def dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # halves of surrogate pairs, integers beyond 64 bits, deep nesting
        return _written(value)


def _written(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can carry
        return json.dumps(value, separators=(",", ":")).encode()
