"""What endpoints say when they refuse, in any of the shapes that they say it in."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from gateway.domain import Json


@dataclass(frozen=True, slots=True)
class Said:
    """Each is None where the endpoint did not say so."""

    message: str | None = None
    code: str | None = None
    type: str | None = None
    param: str | None = None
    status: int | None = None  # an HTTP status in the body, where the answer's own was 200
    retry_after_s: float | None = None


def parse_error(raw: bytes) -> Said:
    """Nothing is said by a page of a CDN's, or by what is no JSON."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return Said()
    return error_said(body) if isinstance(body, dict) else Said()


def error_said(body: Json) -> Said:
    """OpenAI's object, a bare string, FastAPI's `detail`, Apigee's `fault`, or flat fields."""
    error = body.get("error", body)
    if isinstance(error, str):
        error = {"message": error}
    elif not isinstance(error, dict):
        error = {}
    known = {**body, **error}
    availability = _mapping(known.get("availability"))
    metadata = _mapping(known.get("metadata"))
    return Said(
        message=_text(known.get("message")) or _detail(body) or _fault(body, "faultstring"),
        code=_code(known.get("code"))
        or _text(metadata.get("error_type"))
        or _fault(body, "errorcode"),
        type=_text(known.get("type")) or _text(known.get("error_type")),
        param=_text(known.get("param")),
        status=_status(known.get("code")) or _status(known.get("status_code")),
        retry_after_s=_seconds(known.get("retry_after"))
        or _seconds(availability.get("retry_after")),
    )


_TOO_LONG = re.compile(
    r"context (length|window|size)|maximum (context|model) length|max_model_len"
    r"|(prompt|input)( \([^)]*\))? is (too long|longer than)|too many (input|prompt) tokens"
    r"|`?inputs`? tokens \+ `?max_new_tokens`? must be <=",
    re.IGNORECASE,
)


def says_too_long(said: Said) -> bool:
    """The prompt, with its answer, is more than the model's context takes."""
    names = ("context_length_exceeded", "exceed_context_size_error", "string_above_max_length")
    if said.code in names or said.type in names:
        return True
    return said.message is not None and _TOO_LONG.search(said.message) is not None


def _detail(body: Json) -> str | None:
    match body.get("detail"):
        case str(text):
            return text
        case [{"msg": str(text), "loc": [*places]}, *_]:
            where = ".".join(str(place) for place in places if place != "body")
            return f"{where}: {text}" if where else text
        case [{"msg": str(text)}, *_]:
            return text
    return None


def _fault(body: Json, name: str) -> str | None:
    fault = _mapping(body.get("fault"))
    return _text((fault | _mapping(fault.get("detail"))).get(name))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _code(value: Any) -> str | None:
    """A name; a status in its place is told apart."""
    return None if _status(value) else _text(value)


def _status(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch("[45][0-9]{2}", value):
        value = int(value)
    return value if type(value) is int and 400 <= value < 600 else None


def _seconds(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value) if math.isfinite(value) else None
    return None
