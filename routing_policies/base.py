"""The nouns and the three verbs of routing. Imports nothing but the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

DATA_POLICIES = ("unrestricted", "no_training", "zero_retention")
"""What an endpoint does with prompts and answers, each stricter than the one before: anything; it
learns nothing from them; it keeps nothing of them."""


class RouteRequest(NamedTuple):
    """What a policy may know about a request."""

    model: str
    prompt_tokens: int
    max_tokens: int | None = None
    output_tokens: float = 256.0  # expected, at most max_tokens
    fewest_prompt_tokens: int = 0  # a bound, and no estimate
    request_class: str = "standard"  # a policy may have other numbers for others
    needs: frozenset[str] = frozenset()  # capabilities
    data_policy: str = DATA_POLICIES[0]  # what its caller demands at least
    prompt_exact: bool = False  # the tokens were counted, and not estimated
    budget_usd: float | None = None  # what its policy's budget has left; None: no budget


LATENESS_SIGMAS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""Where quantiles are known: as many standard deviations from the median as a normal distribution
has them."""

LATENESS = tuple(0.5 * sigmas for sigmas in LATENESS_SIGMAS)
"""A guess: three answers in a thousand take more than 4.5 times as long as expected."""


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
    lateness: tuple[float, ...] = LATENESS  # quantiles of ln(actual / expected), strictly rising
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


FREE = Price()


class Candidate(NamedTuple):
    """One endpoint as it looked when the decision began.

    A tuple, as are Estimate and Ranked: each is made for every candidate of every decision, and a
    frozen dataclass takes three times as long. Where that happens `tuple.__new__` makes them, in
    the order of the fields, in a third of the time that their own constructors take.
    """

    endpoint: str
    models: frozenset[str]
    healthy: bool = True  # it can be asked
    unavailable: str | None = None  # why not; or why it should not, where nobody else is left
    context_length: int | None = None  # tokens; None: not known
    in_flight: int = 0  # requests sent there and not yet answered in full
    queued_tokens: int = 0  # uncached prompt tokens sent there, first token still awaited
    cached_tokens: int = 0  # of this request's prompt, expected in its prefix cache
    dedicated: bool = False  # it computes for us alone: one request delays the others there
    limited: bool = False  # by its own word it would refuse now: for when nobody else is left
    chosen_at: float | None = None  # when it last was, for this model; on the context's clock
    coefficients: Coefficients = Coefficients()
    price: Price = FREE  # of this request, at this hour
    start_usd: float = 0.0  # what it costs to start its machine, if that stands still
    start_s: float = 0.0  # and how long it takes until it can begin
    capabilities: frozenset[str] | None = None  # None: not known
    data_policy: str = DATA_POLICIES[0]
    region: str | None = None
    load_age_s: float | None = None  # since it told of its load, others' included; None: it did not
    kv_usage: float | None = None  # share of its KV cache that running requests hold, as told then
    active_tokens: int = 0  # of those in flight, prompts and what has been answered so far
    waiting: int | None = None  # requests that it has not begun; None: it tells nothing of it


class Context(NamedTuple):
    """What a decision may depend on besides the request and the candidates."""

    now: float  # seconds, monotonic
    draw: float  # uniform in [0, 1), the only randomness a decision has
    budget_multiplier: float = 0.0  # λ: how much dearer a dollar is while a budget runs short
    tenant_usd: float | None = None  # what its tenant's and key's budgets pay for; None: anything


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
    """What the policy expects of this request on one candidate, computed in `estimate.py`."""

    cached_tokens: int
    uncached_tokens: int
    ttft_s: float  # until the first token
    external_s: float  # by which it delays the others there, in all
    tpot_s: float  # for each token after the first
    cost_usd: float  # what choosing it adds to the bill
    effective_usd: float  # the same, dearer while a budget runs short: (1 + λ)·cost_usd
    p_miss: float  # that it fails, or misses one of the policy's limits


class Ranked(NamedTuple):
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
