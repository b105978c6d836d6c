"""How a request's tokens are chosen, and what of its past matters for that."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.errors import InvalidRequest
from gateway.replica.constraint import Mask

LEAST_REPETITION_PENALTY = 0.01
"""Logits are divided by it: with much less they would overflow float32."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """One request's choices, under vLLM's names. Raises InvalidRequest that names the field."""

    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0  # above 0, at most 1
    top_k: int = 0  # 0: all tokens
    min_p: float = 0.0  # least probability, as a share of the likeliest token's
    repetition_penalty: float = 1.0  # of tokens of prompt and output; 1: none
    presence_penalty: float = 0.0  # of tokens that the output has
    frequency_penalty: float = 0.0  # the same, once for each time
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # by token id
    seed: int | None = None  # None: the engine's own randomness
    max_tokens: int | None = None  # None: until the context is full
    min_tokens: int = 0  # before these no stop token is drawn
    stop_tokens: frozenset[int] = frozenset()
    logprobs: int | None = None  # so many likeliest tokens are told beside each chosen one

    def __post_init__(self) -> None:
        _check("temperature", self.temperature >= 0, "must be 0 or more")
        _check("top_p", 0 < self.top_p <= 1, "must be above 0 and at most 1")
        _check("top_k", self.top_k >= 0, "must be 0 or more")
        _check("min_p", 0 <= self.min_p <= 1, "must be from 0 to 1")
        _check(
            "repetition_penalty",
            self.repetition_penalty >= LEAST_REPETITION_PENALTY,
            f"must be at least {LEAST_REPETITION_PENALTY}",
        )
        for name in ("temperature", "repetition_penalty", "presence_penalty", "frequency_penalty"):
            _check(name, math.isfinite(getattr(self, name)), "must be finite")
        _check("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "must be at least 1")
        enough = self.max_tokens is None or self.min_tokens <= self.max_tokens
        _check("min_tokens", self.min_tokens >= 0 and enough, "must be from 0 to max_tokens")

    @property
    def penalises(self) -> bool:
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )

    @property
    def plain(self) -> bool:
        """Whether nothing but the temperature and the noise is between logits and token."""
        return (
            self.top_p == 1
            and self.top_k == 0
            and self.min_p == 0
            and not self.logit_bias
            and not self.penalises
            and self.logprobs is None
        )


class Seen:
    """The distinct tokens of one sequence and how often each is in its output; one slot each.

    Kept token by token, so that a step costs no look at the whole sequence.
    """

    def __init__(self, prompt: Iterable[int], output: Iterable[int]) -> None:
        self._slots = {token: slot for slot, token in enumerate(dict.fromkeys(prompt))}
        self.ids = array("i", self._slots)
        self.counts = array("f", bytes(4 * len(self.ids)))  # 0: in the prompt alone
        for token in output:
            self.add(token)

    @classmethod
    def of(cls, sampling: Sampling, prompt: Iterable[int], output: Iterable[int]) -> Seen | None:
        """None where nothing depends on it; without the prompt where only the output counts."""
        if not sampling.penalises:
            return None
        return cls(prompt if sampling.repetition_penalty != 1 else (), output)

    def add(self, token: int) -> None:
        slot = self._slots.setdefault(token, len(self.ids))
        if slot == len(self.ids):
            self.ids.append(token)
            self.counts.append(0)
        self.counts[slot] += 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One sequence whose next token is to be chosen."""

    sampling: Sampling
    position: int  # where the token will stand, the prompt's tokens included
    generated: int = 0  # output tokens before it
    seen: Seen | None = None
    mask: Mask | None = field(default=None, repr=False)  # which tokens may be drawn; None: all

    @property
    def adjusts(self) -> bool:
        """Whether its logits must be changed before the likeliest is taken."""
        sampling = self.sampling
        return (
            self.seen is not None
            or self.mask is not None
            or bool(sampling.logit_bias)
            or (self.generated < sampling.min_tokens and bool(sampling.stop_tokens))
        )


def _check(name: str, holds: bool, what: str) -> None:
    if not holds:
        raise InvalidRequest(f"{name} {what}", param=name)
