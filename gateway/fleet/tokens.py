"""How many tokens a prompt will be, before anyone has tokenised it."""

from __future__ import annotations

FIRST_GUESS = 0.28
"""Tokens per canonical byte of English chat: about 4 characters a token, and a template's share."""

LEARNING_RATE = 0.1


class TokenRatio:
    """Tokens per canonical byte of each model's prompts, learnt from the usage in answers."""

    def __init__(self) -> None:
        self._per_byte: dict[str, float] = {}

    def estimate(self, model: str, size: int) -> int:
        return max(1, round(size * self._per_byte.get(model, FIRST_GUESS)))

    def learn(self, model: str, size: int, tokens: int) -> None:
        seen = tokens / size
        known = self._per_byte.get(model, seen)
        self._per_byte[model] = known + LEARNING_RATE * (seen - known)
