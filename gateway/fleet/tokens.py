"""How many tokens a prompt will be, before anyone has tokenised it."""

from __future__ import annotations

from typing import NamedTuple

from gateway.domain import InferenceRequest

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


TOKENS_PER_IMAGE = 800
"""Between what common models make of a picture of a megapixel (Llama 3.2 and Qwen2.5-VL above a
thousand, others a few hundred). Only a first guess at what answers then tell."""


class TokenCount(NamedTuple):
    tokens: int
    exact: bool  # counted, and not estimated


class TokenRatio:
    """Tokens per canonical byte of each model's prompts, learnt from the usage in answers."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}  # model -> tokens, bytes

    def estimate(self, model: str, size: int) -> int:
        tokens, seen = self._seen.get(model, (0.0, 0.0))
        ratio = (tokens + PRIOR_BYTES * FIRST_GUESS) / (seen + PRIOR_BYTES)
        return max(1, round(size * ratio))

    def count(self, request: InferenceRequest) -> TokenCount:
        """Of a request's prompt, at once: exact where the client has sent tokens."""
        if request.prompt_tokens is not None:
            return TokenCount(request.prompt_tokens, exact=True)
        text = self.estimate(request.model, request.prompt_size)
        return TokenCount(text + request.images * TOKENS_PER_IMAGE, exact=False)

    def answered(self, request: InferenceRequest, tokens: int) -> None:
        """What an endpoint has counted. It tells of text where the prompt was nothing else:
        nobody says how many tokens were pictures'."""
        if not request.images and request.prompt_tokens is None:
            self.learn(request.model, request.prompt_size, tokens)

    def learn(self, model: str, size: int, tokens: int) -> None:
        known_tokens, known_bytes = self._seen.get(model, (0.0, 0.0))
        keep = max(0.0, 1 - size / MEMORY_BYTES)
        counted = min(float(tokens), MOST_PER_BYTE * size)
        self._seen[model] = (known_tokens * keep + counted, known_bytes * keep + size)


def fewest(request: InferenceRequest) -> int:
    """Tokens of an endpoint's context that a request's prompt takes at the very least."""
    if not request.operation.writes:
        return 0  # each input has a context of its own
    if request.prompt_tokens is not None:
        return request.prompt_tokens
    return request.prompt_size // BYTES_PER_TOKEN_AT_MOST
