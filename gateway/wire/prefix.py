"""Prefix keys: names for the beginnings of a request's canonical bytes.

The gateway's placement index is over bytes and not over tokens: it needs no tokeniser and no chat
template, and knows nothing of a replica's blocks. Two requests of one tenant share a key exactly
when they share all bytes up to it. Keys are keyed by the tenant, so nobody can ask for, or
recognise, another tenant's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from gateway.domain import Json, PrefixKey

GRAINS = ((8 * 1024, 256), (512 * 1024, 2 * 1024))
COARSEST_GRAIN = 32 * 1024
"""Up to so many bytes, keys stand at multiples of the grain: about 64 tokens apart at first, wider
where a prompt is long enough that the rest does not matter."""

MESSAGE_KEYS = 64
"""Keys stand at the ends of the first messages too. All this bounds what one request may add to the
index: about 1,400 keys for 32 MB."""

KEY_BYTES = 16


def chat_parts(model: str, body: Json) -> list[bytes]:
    """Canonical bytes of what a chat template renders, one part per message."""
    head = canonical([model, body.get("tools")])
    messages = [canonical(_without_inline_data(message)) for message in body["messages"]]
    # Nothing ends with the head: a key that every request of a model shares says nothing.
    return [head + messages[0], *messages[1:]]


def _without_inline_data(message: Json) -> Json:
    """A picture in a `data:` URL as its digest: its bytes name it, but are no measure of tokens."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_short_url(part) for part in content]}


def _short_url(part: Any) -> Any:
    match part:
        case {"image_url": {"url": str(url)} as image} if url.startswith("data:"):
            digest = blake2b(url.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES)
            return {**part, "image_url": {**image, "url": f"data:{digest.hexdigest()}"}}
    return part


def completion_parts(model: str, body: Json) -> list[bytes]:
    prompt = body["prompt"]
    text = prompt.encode("utf-8", "surrogatepass") if isinstance(prompt, str) else canonical(prompt)
    return [canonical(model) + text]


def canonical(value: Any) -> bytes:
    """The same bytes for the same JSON value, whatever the order of keys and the white space."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # halves of surrogate pairs, integers beyond 64 bits
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return text.encode("utf-8", "surrogatepass")


def prefix_keys(parts: Sequence[bytes], tenant_key: bytes) -> tuple[PrefixKey, ...]:
    """Keys of every boundary in `parts`, shortest first. `tenant_key`: at most 64 bytes."""
    digest = blake2b(key=tenant_key, digest_size=KEY_BYTES)
    keys = []
    at = 0
    for index, part in enumerate(parts):
        start = 0
        for end in _boundaries(at, len(part)):
            digest.update(part[start:end])
            start = end
            keys.append(PrefixKey(digest.digest(), at + end))
        digest.update(part[start:])
        at += len(part)
        if start < len(part) and (index < MESSAGE_KEYS or index == len(parts) - 1):
            keys.append(PrefixKey(digest.digest(), at))
    return tuple(keys)


def _boundaries(at: int, length: int) -> Iterator[int]:
    """Offsets in a part that begins at byte `at`: multiples of the grain."""
    position = at
    while True:
        grain = COARSEST_GRAIN
        for limit, finer in GRAINS:
            if position < limit:
                grain = finer
                break
        position += grain - position % grain
        if position > at + length:
            return
        yield position - at
