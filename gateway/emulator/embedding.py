"""Vectors for texts: of one length, and near each other where the texts share words."""

from __future__ import annotations

import math
import struct
from base64 import b64encode
from collections.abc import Sequence
from hashlib import blake2b

from gateway.emulator.faults import Fault
from gateway.emulator.profile import Object, Profile
from gateway.emulator.run import Run
from gateway.emulator.tokens import tokens

DIMENSIONS = 64
"""Unless the request says how many."""


def vectors(run: Run, profile: Profile, fault: Fault) -> Object:
    asked = run.asked.body
    size = asked.get("dimensions") or DIMENSIONS
    encode = _base64 if asked.get("encoding_format") == "base64" else list
    answer: Object = {
        "object": "list",
        "model": run.asked.model,
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(vector(text, size))}
            for index, text in enumerate(run.asked.inputs)
        ],
    }
    if not fault.no_usage:
        answer["usage"] = {"prompt_tokens": run.prompt_tokens, "total_tokens": run.prompt_tokens}
    profile.whole(answer, run)
    return answer


def vector(text: str, size: int) -> list[float]:
    """The sum of its tokens' directions, as float32 holds it."""
    total = [0.0] * size
    for token in tokens(text):
        for at, value in enumerate(_direction(token, size)):
            total[at] += value
    length = math.sqrt(sum(value * value for value in total)) or 1.0
    return list(struct.unpack(f"<{size}f", _packed([value / length for value in total])))


def _direction(token: str, size: int) -> list[float]:
    """From -1 to 1 in each dimension, and always the same."""
    seed = blake2b(token.strip().lower().encode("utf-8", "replace")).digest()
    blocks = -(-size // len(seed))
    noise = b"".join(blake2b(seed, salt=n.to_bytes(8, "big")).digest() for n in range(blocks))
    return [byte / 127.5 - 1 for byte in noise[:size]]


def _packed(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _base64(values: Sequence[float]) -> str:
    return b64encode(_packed(values)).decode()
