"""
Text to tokens and to blocks of them.

A token is up to eight letters, up to three digits, one sign or one space; a space before letters,
digits or signs belongs to them. It is nobody's tokeniser, and near enough to all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

TOKEN = re.compile(r" ?[^\W\d_]{1,8}| ?\d{1,3}| ?(?:[^\w\s]|_)|\s")


def tokens(text: str) -> list[str]:
    """Put together again they are the text."""
    return TOKEN.findall(text)


def blocks(prompt: Sequence[str], size: int, salt: str) -> list[int]:
    """An id for each full block, chained: equal ids stand for equal beginnings."""
    ids, chain = [], salt.encode()
    for start in range(0, len(prompt) - size + 1, size):
        block = "".join(prompt[start : start + size]).encode("utf-8", "replace")
        chain = blake2b(chain + block, digest_size=8).digest()
        ids.append(int.from_bytes(chain, "big"))
    return ids
