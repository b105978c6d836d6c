"""
What an endpoint's answers teach of it: how fast it is, how often it fails, how well it caches.

Everything forgets, by time and by number, and rests on a prior that does not: after silence, what
we believe drifts back to what the table says of such endpoints. All numbers are seconds and tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from gateway.fleet.lateness import Lateness, surprise
from routing_policies.base import Coefficients

HALF_LIFE_S = 600.0

MEMORY = 50
"""Answers that an estimate rests on, at most: a change shows after about as many, however busy the
endpoint was before it."""

ONE_ANSWER = math.log2(1 - 1 / MEMORY)
"""What is forgotten for it, in half-lives, below zero."""

UNCACHED_GUESS = 1000.0
"""Tokens that a prompt has to compute, before any were seen."""

REFRESH_S, FEW = 0.1, 10
"""To solve for the coefficients takes as long as to decide by them. A decision takes them as they
were so long ago at most; while few answers are known, each counts at once."""

MOST_UNLEARNT = 200
"""Answers that wait for that: `observers.py` says why together."""

SEED_ANSWERS = 5.0
"""The table is worth so many answers of a new endpoint's peers."""


def kept(elapsed_s: float, half_life_s: float, answers: float = 1.0) -> float:
    """The share of its weight that an old answer keeps when a new one comes, which may be worth
    more than one."""
    return math.exp2(answers * ONE_ANSWER - max(0.0, elapsed_s) / half_life_s)


class Regression:
    """Weighted least squares, `y = θ·x`, recursive, forgetting by time, on a fixed prior.

    It minimises `Σ ((θ·x - y) / (prior·x))² + Σ ((θ - prior) / (3·prior))²`. Errors count
    relative to what the prior expects of x, since a long prompt may be off by a second and a short
    one may not; to what y was they must not, or old answers from better days would outweigh
    new ones from worse.
    """

    def __init__(
        self,
        prior: Sequence[float],
        half_life_s: float = HALF_LIFE_S,
    ) -> None:
        self._prior = [max(p, 1e-12) for p in prior]
        self._precision = [1 / (3 * p) ** 2 for p in self._prior]
        self._half_life_s = half_life_s
        size = len(self._prior)
        self._xx = [[0.0] * size for _ in range(size)]
        self._xy = [0.0] * size
        self._updated = 0.0
        self.samples = 0.0  # observations, each counting less as it ages
        self._theta: list[float] | None = list(self._prior)  # None: something was learnt since

    def learn(self, x: Sequence[float], y: float, now: float, answers: float = 1.0) -> None:
        """What was known before is forgotten as if by so many answers."""
        keep = kept(now - self._updated, self._half_life_s, answers)
        self._updated = now
        expected = 0.0
        for i, xi in enumerate(x):
            expected += self._prior[i] * xi
        weight = 1 / expected**2
        for i, xi in enumerate(x):
            weighed, row = weight * xi, self._xx[i]
            self._xy[i] = self._xy[i] * keep + weighed * y
            for j, xj in enumerate(x):
                row[j] = row[j] * keep + weighed * xj
        self.samples = self.samples * keep + 1
        self._theta = None

    @property
    def theta(self) -> list[float]:
        if self._theta is None:
            self._theta = self._solved()
        return self._theta

    def _solved(self) -> list[float]:
        matrix = [row[:] for row in self._xx]
        right = self._xy[:]
        for i, precision in enumerate(self._precision):
            matrix[i][i] += precision
            right[i] += precision * self._prior[i]
        # No coefficient here can be negative: nothing takes less time for having more to do.
        return [max(0.0, t) for t in solve(matrix, right)]


class Average:
    """A mean and variance of values that count less as they age, on a fixed prior."""

    def __init__(self, mean: float, weight: float, half_life_s: float = HALF_LIFE_S) -> None:
        self._prior, self._weight = mean, weight
        self._half_life_s = half_life_s
        self._count = self._sum = self._updated = 0.0

    def learn(self, value: float, now: float) -> None:
        keep = kept(now - self._updated, self._half_life_s)
        self._updated = now
        self._count = self._count * keep + 1
        self._sum = self._sum * keep + value

    @property
    def mean(self) -> float:
        return (self._sum + self._prior * self._weight) / (self._count + self._weight)


class Observation(NamedTuple):
    """What one answered attempt tells. Seconds and tokens."""

    first_event_s: float  # from sending; for an answer that was not streamed, its whole time
    streamed: bool
    output_s: float  # from the first event to the last
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queued_tokens: int  # when it was sent
    in_flight: int  # when it was sent, without itself
    expected_first_s: float
    expected_cached_tokens: int


class Learning:
    """One endpoint's coefficients."""

    def __init__(self, seed: Coefficients) -> None:
        self._errors = Average(seed.error_rate, weight=20)
        self._hits = Average(seed.hit_rate, weight=5)
        self._uncached = Average(UNCACHED_GUESS, weight=3)
        self._learnt = 0.0  # when
        self._unlearnt: list[tuple[Observation, float]] = []  # and when each was made
        self.start_from(seed)

    def start_from(self, seed: Coefficients) -> None:
        """Forget what was seen of its speed, and take it to be like this until more is seen."""
        self._catch_up()
        first = (seed.base_s, seed.per_token_s, seed.per_token_context_s, seed.per_queued_s)
        pace = (seed.per_output_s, seed.per_output_busy_s)
        self._first = Regression(first)
        self._pace = Regression(pace)
        self._lateness = Lateness(seed.lateness)
        self._answers, self._refreshed, self._stale = 0, 0.0, False
        self._coefficients = dataclasses.replace(
            seed, error_rate=self._errors.mean, hit_rate=self._hits.mean
        )

    @property
    def coefficients(self) -> Coefficients:
        """With all that was learnt."""
        if self._stale:
            self._refresh()
        return self._coefficients

    def recent(self, now: float) -> Coefficients:
        """As they are, or were `REFRESH_S` ago."""
        due = self._answers <= FEW or now - self._refreshed >= REFRESH_S
        if self._stale and due:
            self._refreshed = now
            self._refresh()
        return self._coefficients

    @property
    def untaught(self) -> bool:
        """No answer has told of its speed yet."""
        return not self._first.samples  # the first answers do not wait

    @property
    def uncached_tokens(self) -> float:
        """That a prompt there has, on average."""
        self._catch_up()
        return self._uncached.mean

    def answered(self, seen: Observation, now: float) -> None:
        self._answers += 1
        self._unlearnt.append((seen, now))
        self._stale = True
        if self._answers <= FEW or len(self._unlearnt) >= MOST_UNLEARNT:
            self._catch_up()

    def _catch_up(self) -> None:
        unlearnt, self._unlearnt = self._unlearnt, []
        for seen, then in unlearnt:
            self._learn(seen, then)

    def _learn(self, seen: Observation, now: float) -> None:
        uncached = seen.prompt_tokens - seen.cached_tokens
        self._uncached.learn(uncached, now)
        first_s, output_s, expected_s = seen.first_event_s, seen.output_s, seen.expected_first_s
        if not seen.streamed:
            # Nobody saw the first token. Both parts are taken to be late, or early, by the same
            # share; a streamed answer will tell them apart.
            expected_output_s = self._output_s(seen, now)
            expected_s += expected_output_s
            late = first_s / max(expected_s, 1e-4)
            first_s, output_s = seen.expected_first_s * late, expected_output_s * late
        surprised = surprise(seen.first_event_s, expected_s)
        self._lateness.learn(surprised, kept(now - self._learnt, HALF_LIFE_S))
        self._learnt = now
        context = uncached * seen.prompt_tokens
        # An answer that surprises much says that the endpoint has changed, and what was known is
        # worth less. Noise of a half in either direction changes nothing; twenty times makes half
        # of it forgotten.
        answers = 1 + surprised**4 / 2
        self._first.learn((1.0, uncached, context, seen.queued_tokens), first_s, now, answers)
        if seen.output_tokens > 1:
            self._pace.learn((1.0, seen.in_flight), output_s / (seen.output_tokens - 1), now)
        if seen.expected_cached_tokens > 0:
            found = min(1.0, seen.cached_tokens / seen.expected_cached_tokens)
            self._hits.learn(found, now)
        self._errors.learn(0.0, now)

    def _output_s(self, seen: Observation, now: float) -> float:
        """As expected of all tokens after the first."""
        known = self.recent(now) if self._answers <= FEW else self._coefficients
        each = known.per_output_s + seen.in_flight * known.per_output_busy_s
        return each * max(0, seen.output_tokens - 1)

    def failed(self, now: float) -> None:
        self._catch_up()
        self._errors.learn(1.0, now)
        self._stale = True

    def _refresh(self) -> None:
        self._catch_up()
        base, token, context, queued = self._first.theta
        output, busy = self._pace.theta
        self._stale = False
        self._coefficients = Coefficients(
            base_s=base,
            per_token_s=token,
            per_token_context_s=context,
            per_queued_s=queued,
            per_output_s=output,
            per_output_busy_s=busy,
            lateness=self._lateness.quantiles(),
            error_rate=self._errors.mean,
            hit_rate=self._hits.mean,
            samples=self._first.samples,
        )


def from_peers(peers: Sequence[Coefficients], seed: Coefficients) -> Coefficients:
    """What a new endpoint may be expected to be like: speeds as its peers have them, each counting
    by its answers, and drawn towards the table where these are few. Errors and cache hits are each
    endpoint's own."""
    weights = [SEED_ANSWERS, *(peer.samples for peer in peers)]

    def mean(values: Sequence[float]) -> float:
        total = sum(weight * value for weight, value in zip(weights, values, strict=True))
        return total / sum(weights)

    all_ = [seed, *peers]
    speeds = {name: mean([getattr(known, name) for known in all_]) for name in SPEEDS}
    columns = zip(*(known.lateness for known in all_), strict=True)
    return dataclasses.replace(seed, **speeds, lateness=tuple(map(mean, columns)))


SPEEDS = (
    *("base_s", "per_token_s", "per_token_context_s", "per_queued_s"),
    *("per_output_s", "per_output_busy_s"),
)


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """x of `matrix·x = right`, by elimination; both are used up. The matrix is positive definite:
    a Gram matrix plus a positive diagonal, so no pivot vanishes."""
    size = len(right)
    for i in range(size):
        for j in range(i + 1, size):
            factor = matrix[j][i] / matrix[i][i]
            right[j] -= factor * right[i]
            for k in range(i, size):
                matrix[j][k] -= factor * matrix[i][k]
    x = [0.0] * size
    for i in reversed(range(size)):
        rest = sum(matrix[i][k] * x[k] for k in range(i + 1, size))
        x[i] = (right[i] - rest) / matrix[i][i]
    return x
