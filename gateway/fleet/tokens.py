"""How many tokens a prompt will be, before anyone has tokenised it."""

from __future__ import annotations

FIRST_GUESS = 0.28
"""Tokens per canonical byte of English chat: about 4 characters a token, and a template's share."""

PRIOR_BYTES = 8192
"""The guess is worth so many bytes of seen prompts: a short one, mostly template, moves it little.
"""

MEMORY_BYTES = 1024 * 1024
"""Of what was seen longer ago than so many bytes, little is left."""

MOST_PER_BYTE = 1.5
"""No tokeniser makes more of text and template; an endpoint that says so has miscounted."""

BYTES_PER_TOKEN_AT_MOST = 12
"""Runs of spaces and signs make long tokens; a whole prompt with longer ones on average is none."""


class TokenRatio:
    """Tokens per canonical byte of each model's prompts, learnt from the usage in answers."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}  # model -> tokens, bytes

    def estimate(self, model: str, size: int) -> int:
        tokens, seen = self._seen.get(model, (0.0, 0.0))
        ratio = (tokens + PRIOR_BYTES * FIRST_GUESS) / (seen + PRIOR_BYTES)
        return max(1, round(size * ratio))

    def learn(self, model: str, size: int, tokens: int) -> None:
        known_tokens, known_bytes = self._seen.get(model, (0.0, 0.0))
        keep = max(0.0, 1 - size / MEMORY_BYTES)
        counted = min(float(tokens), MOST_PER_BYTE * size)
        self._seen[model] = (known_tokens * keep + counted, known_bytes * keep + size)


def fewest(size: int) -> int:
    """Tokens that a prompt of so many canonical bytes has at the very least."""
    return size // BYTES_PER_TOKEN_AT_MOST
