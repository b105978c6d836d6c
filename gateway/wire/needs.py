"""What an endpoint must be able to do for a request, read off its fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.domain import Json

PARTS = {
    "image_url": "vision",
    "video_url": "vision",
    "input_audio": "audio",
    "audio_url": "audio",
}
"""Types of a message's parts that are no text -> what they take."""


def needs(body: Json) -> frozenset[str]:
    return frozenset(_needs(body))


def _needs(body: Json) -> Iterator[str]:
    if body.get("tools") and body.get("tool_choice") != "none":
        yield "tools"
    if _kind(body.get("response_format")) in ("json_schema", "json_object"):
        yield "json_schema"
    logprobs = body.get("logprobs")
    if logprobs is not None and logprobs is not False:  # for completions a number, 0 included
        yield "logprobs"
    if (body.get("n") or 1) > 1:
        yield "n"
    if "audio" in _list(body.get("modalities")):
        yield "audio"
    yield from (PARTS[kind] for kind in _kinds_of_parts(body) if kind in PARTS)


def count_images(body: Json) -> int:
    return sum(kind == "image_url" for kind in _kinds_of_parts(body))


def _kinds_of_parts(body: Json) -> Iterator[str]:
    for message in _list(body.get("messages")):
        for part in _list(message.get("content")) if isinstance(message, dict) else ():
            yield _kind(part)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else ""
