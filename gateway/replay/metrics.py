"""What a run comes to, in a few numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean

from gateway.replay.simulation import Answer


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as good: a first token in time for the prompt's length, and a steady answer."""

    ttft_s: float = 2.0
    tokens_per_s: float = 8000.0  # so much more time for the first token of a long prompt
    tpot_s: float = 0.060

    def met(self, answer: Answer) -> bool:
        allowed = self.ttft_s + answer.request.prompt_tokens / self.tokens_per_s
        return answer.ttft_s <= allowed and answer.tpot_s <= self.tpot_s


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the requests behind the warm-up. Times are seconds."""

    goodput: float  # share within the limits
    ttft_p50: float
    ttft_p95: float
    ttft_p99: float
    e2e_mean: float
    cost: float  # dollars paid to providers
    hit: float  # cached share of the prompt tokens
    spread: float  # requests of the busiest endpoint, over the mean of all


WARM_UP = 0.1
"""Share of the requests, the first to arrive, that no number counts: caches were empty."""


def summarise(answers: Sequence[Answer], endpoints: int, limits: Limits | None = None) -> Summary:
    """Of a run over so many endpoints; `answers` by arrival."""
    limits = limits or Limits()
    counted = after_warm_up(answers)
    ttft = sorted(answer.ttft_s for answer in counted)
    chosen = Counter(answer.endpoint for answer in counted)
    prompt_tokens = sum(answer.request.prompt_tokens for answer in counted)
    return Summary(
        goodput=fmean(limits.met(answer) for answer in counted),
        ttft_p50=percentile(ttft, 0.50),
        ttft_p95=percentile(ttft, 0.95),
        ttft_p99=percentile(ttft, 0.99),
        e2e_mean=fmean(answer.e2e_s for answer in counted),
        cost=sum(answer.cost_usd for answer in counted),
        hit=sum(answer.cached_tokens for answer in counted) / prompt_tokens,
        spread=max(chosen.values()) * endpoints / len(counted),
    )


def after_warm_up(answers: Sequence[Answer]) -> Sequence[Answer]:
    return answers[int(len(answers) * WARM_UP) :]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def mean(summaries: Sequence[Summary]) -> Summary:
    """Of the same run with several seeds."""
    return Summary(*(fmean(getattr(s, f.name) for s in summaries) for f in fields(Summary)))
