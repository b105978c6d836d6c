"""What an endpoint must be able to do for a request, read off its fields."""

from __future__ import annotations

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
    found = {PARTS[kind] for kind in _kinds_of_parts(body) if kind in PARTS}
    if body.get("tools") and body.get("tool_choice") != "none":
        found.add("tools")
    if _kind(body.get("response_format")) in ("json_schema", "json_object"):
        found.add("json_schema")
    logprobs = body.get("logprobs")
    if logprobs is not None and logprobs is not False:  # for completions a number, 0 included
        found.add("logprobs")
    if (body.get("n") or 1) > 1:
        found.add("n")
    if "audio" in _list(body.get("modalities")):
        found.add("audio")
    return frozenset(found)


def count_images(body: Json) -> int:
    return _kinds_of_parts(body).count("image_url")


def _kinds_of_parts(body: Json) -> list[str]:
    kinds: list[str] = []
    for message in _list(body.get("messages")):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            kinds += [_kind(part) for part in content]
    return kinds


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else ""
