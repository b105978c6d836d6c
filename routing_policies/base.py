"""The nouns and the three verbs of routing. Imports nothing but the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What a policy may know about a request."""

    model: str
    prompt_tokens: int  # estimated
    max_tokens: int | None = None
    output_tokens: float = 256.0  # expected, at most max_tokens
    fewest_prompt_tokens: int = 0  # a bound, and no estimate
    request_class: str = "standard"  # a policy may have other numbers for others


@dataclass(frozen=True, slots=True)
class Coefficients:
    """How fast and how sure an endpoint is, learnt from its answers. Seconds and tokens.

    First token of a prompt with u uncached tokens in a context of `ctx`, q uncached tokens queued:
    `base_s + q·per_queued_s + u·per_token_s + u·ctx·per_token_context_s`. Each token after it, with
    n requests in flight: `per_output_s + n·per_output_busy_s`. The defaults are a guess at a
    middling GPU's 8-billion-parameter model; learning replaces them within a few answers.
    """

    base_s: float = 0.05
    per_token_s: float = 1e-4
    per_token_context_s: float = 1e-9
    per_queued_s: float = 1e-4
    per_output_s: float = 0.015
    per_output_busy_s: float = 5e-4
    spread: float = 0.5  # standard deviation of ln(actual / expected) of the first token's time
    error_rate: float = 0.0  # share of attempts that the endpoint refused or broke
    hit_rate: float = 1.0  # cached tokens found, as a share of those expected
    samples: float = 0.0  # answers behind all this, each counting less as it ages


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens. Zero throughout: a machine that runs anyway."""

    input: float = 0.0
    output: float = 0.0
    cached: float | None = None  # None: as `input`
    cache_write: float = 0.0  # on top of `input`, for tokens that are not cached yet

    def dollars(self, uncached_tokens: float, cached_tokens: float, output_tokens: float) -> float:
        cached = self.input if self.cached is None else self.cached
        return (
            uncached_tokens * (self.input + self.cache_write)
            + cached_tokens * cached
            + output_tokens * self.output
        ) / 1e6


@dataclass(frozen=True, slots=True)
class Candidate:
    """One endpoint as it looked when the decision began."""

    endpoint: str
    models: frozenset[str]
    healthy: bool = True
    context_length: int | None = None  # tokens; None: not known
    in_flight: int = 0  # requests sent there and not yet answered in full
    queued_tokens: int = 0  # uncached prompt tokens sent there, first token still awaited
    cached_tokens: int = 0  # of this request's prompt, expected in its prefix cache
    dedicated: bool = False  # it computes for us alone: one request delays the others there
    chosen_at: float | None = None  # when it last was, for this model; on the context's clock
    coefficients: Coefficients = Coefficients()
    price: Price = Price()


@dataclass(frozen=True, slots=True)
class Context:
    """What a decision may depend on besides the request and the candidates."""

    now: float  # seconds, monotonic
    draw: float  # uniform in [0, 1), the only randomness a decision has
    budget_multiplier: float = 0.0  # λ: how much dearer a dollar is while a budget runs short
    dollars_left: float | None = None  # what this request may cost whoever asks; None: anything


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as a miss. None: no limit."""

    ttft_s: float | None = None  # to the first token
    tpot_s: float | None = None  # for each token after it


@dataclass(frozen=True, slots=True)
class HardLimits:
    """A candidate whose estimate is beyond one of these is not asked. None: no limit."""

    cost_usd: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None


NO_LIMITS, NO_HARD_LIMITS = Limits(), HardLimits()


class Estimate(NamedTuple):
    """What the policy expects of this request on one candidate, computed in `estimate.py`.

    A tuple, since one is made for each candidate of every decision: dataclasses take twice as long.
    """

    cached_tokens: int
    uncached_tokens: int
    ttft_s: float  # until the first token
    external_s: float  # by which it delays the others there, in all
    tpot_s: float  # for each token after the first
    cost_usd: float  # what choosing it adds to the bill
    effective_usd: float  # the same, dearer while a budget runs short: (1 + λ)·cost_usd
    p_miss: float  # that it fails, or misses one of the policy's limits


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate that passed every filter, with what the objective says of it."""

    candidate: Candidate
    estimate: Estimate
    cost: float  # in the objective's unit; lowest is best


class Filter(Protocol):
    def keep(self, request: RouteRequest, candidate: Candidate) -> bool: ...


class Objective(Protocol):
    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        """What choosing this candidate costs; finite and never negative."""
        ...


class Picker(Protocol):
    def pick(self, ranked: Sequence[Ranked], context: Context) -> Sequence[Ranked]:
        """Order the candidates, first choice first."""
        ...
