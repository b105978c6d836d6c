"""All endpoints: snapshots for a decision, and what each exchange teaches us."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from gateway.domain import Attempt, BilledBy, InferenceRequest, Outcome, ReplicaReport, Usage
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.learning import Average, Observation
from gateway.fleet.placement import Match, PlacementIndex
from gateway.fleet.tokens import TokenRatio, fewest
from routing_policies.base import Candidate, RouteRequest

Clock = Callable[[], float]

OUTPUT_GUESS = 200.0
"""Tokens of an answer, before a tenant's have been seen: near the medians of public traces."""


class Fleet:
    def __init__(self, endpoints: Iterable[Endpoint], index: PlacementIndex, clock: Clock) -> None:
        self.endpoints: Mapping[str, Endpoint] = {e.name: e for e in endpoints}
        self._index = index
        self._tokens = TokenRatio()
        self._lengths: dict[tuple[str, str], Average] = {}  # output tokens by tenant and model
        self._clock = clock

    def models(self) -> list[str]:
        """Every model that clients may ask for, in the order of the config."""
        names = [name for e in self.endpoints.values() for name in sorted(e.models)]
        return list(dict.fromkeys(names))

    def ready(self) -> bool:
        return any(endpoint.healthy for endpoint in self.endpoints.values())

    def snapshot(
        self, request: InferenceRequest
    ) -> tuple[RouteRequest, list[Candidate], Mapping[str, Match]]:
        """What a policy decides on, and the placements behind each candidate's cached tokens."""
        matches = self._index.match(request.prefix, self._clock())
        candidates = [
            endpoint.snapshot(request.model, self._cached_tokens(request, matches.get(name)))
            for name, endpoint in self.endpoints.items()
        ]
        return self._route_request(request), candidates, matches

    def _route_request(self, request: InferenceRequest) -> RouteRequest:
        length = self._lengths.get((request.tenant, request.model))
        expected = length.mean if length else OUTPUT_GUESS
        return RouteRequest(
            request.model,
            prompt_tokens=self._tokens.estimate(request.model, request.prompt_size),
            fewest_prompt_tokens=fewest(request.prompt_size),
            max_tokens=request.max_tokens,
            output_tokens=min(expected, request.max_tokens or expected),
        )

    def _cached_tokens(self, request: InferenceRequest, match: Match | None) -> int:
        if match is None:
            return 0
        if match.tokens is not None:
            return match.tokens
        return self._tokens.estimate(request.model, match.size)

    def sent(self, request: InferenceRequest, endpoint: str) -> None:
        """A request is on its way: the next one that begins like it should find it there."""
        now = self._clock()
        self.endpoints[endpoint].chosen_at[request.model] = now
        self._index.place(endpoint, request.prefix, now)

    def failed(self, request: InferenceRequest, attempt: Attempt) -> None:
        """An attempt ended before its first event: whatever it was to leave in a cache is void."""
        self._index.forget(attempt.endpoint, request.prefix, beyond=attempt.matched_size)

    def settled(self, outcome: Outcome) -> None:
        if not outcome.attempts or outcome.request is None:
            return
        for attempt in outcome.attempts:
            if attempt.failed:
                self.endpoints[attempt.endpoint].learning.failed(self._clock())
        attempt, request = outcome.attempts[-1], outcome.request
        if outcome.report is not None:
            self.reported(attempt.endpoint, outcome.report, attempt.started)
        if outcome.usage is not None and outcome.usage.prompt_tokens > 0:  # some count nothing
            self._learn_place(request, attempt, outcome.usage, lru=outcome.report is not None)
            self._learn_speed(request, attempt, outcome.usage)

    def bill(self, outcome: Outcome) -> None:
        """What each attempt cost us: the told tokens at our rates; else, of an answer that had
        begun, its prompt and as many tokens as events had come."""
        for attempt in outcome.attempts:
            told = outcome.usage if attempt is outcome.answering else None
            usage = attempt.billed or told
            if usage is not None and outcome.request is not None:
                price = self.endpoints[attempt.endpoint].price(outcome.request.model)
                cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
                attempt.billed_usd = price.dollars(
                    usage.prompt_tokens - cached, cached, usage.completion_tokens
                )
                attempt.billed_by = BilledBy.TARIFF
            elif attempt.first_event is not None:
                attempt.billed_usd = self._estimated(outcome, attempt)
                attempt.billed_by = BilledBy.ESTIMATE

    def _estimated(self, outcome: Outcome, attempt: Attempt) -> float:
        chosen = next((c for c in outcome.considered if c.endpoint == attempt.endpoint), None)
        if chosen is None or outcome.request is None:
            return attempt.expected_cost_usd
        price = self.endpoints[attempt.endpoint].price(outcome.request.model)
        events = outcome.events if len(outcome.attempts) == 1 else attempt.delivered_tokens
        return price.dollars(chosen.uncached_tokens, chosen.cached_tokens, events)

    def reported(self, name: str, report: ReplicaReport, asked: float) -> None:
        """A replica told of itself, with an answer to something sent at the time `asked`."""
        endpoint = self.endpoints[name]
        if endpoint.epoch not in (None, report.epoch):
            # It may have started at any time before it was asked.
            self._index.expire(name, before=asked)
        endpoint.epoch = report.epoch
        if report.horizon_age_s is not None:
            self._index.expire(name, before=self._clock() - report.horizon_age_s)

    def _learn_place(
        self, request: InferenceRequest, attempt: Attempt, usage: Usage, *, lru: bool
    ) -> None:
        self._tokens.learn(request.model, request.prompt_size, usage.prompt_tokens)
        believed = attempt.matched_tokens
        told = usage.cached_tokens
        if lru and believed is not None and told is not None and told < believed // 2:
            # An answer had told that these tokens were there, and most of them are not. Under LRU
            # everything that was touched earlier is gone as well. Half leaves room for keys that
            # fall between blocks.
            self._index.expire(attempt.endpoint, before=attempt.matched_touched)
        # The endpoint touched the prompt's blocks last when it let go of them, which was later than
        # any event before the last. To date the belief later than the touch would keep it alive
        # past the horizon that evicted them.
        touched = attempt.first_event if request.stream else None
        self._index.place(
            attempt.endpoint, request.prefix, touched or attempt.started, usage.prompt_tokens
        )

    def _learn_speed(self, request: InferenceRequest, attempt: Attempt, usage: Usage) -> None:
        length = self._lengths.setdefault(
            (request.tenant, request.model), Average(OUTPUT_GUESS, weight=1)
        )
        length.learn(usage.completion_tokens, self._clock())
        if attempt.first_event is None or attempt.last_event is None:
            return
        # What was not told is taken as expected: it teaches nothing of the cache.
        told = (
            attempt.expected_cached_tokens if usage.cached_tokens is None else usage.cached_tokens
        )
        self.endpoints[attempt.endpoint].learning.answered(
            Observation(
                first_event_s=attempt.first_event - attempt.started,
                streamed=request.stream,
                output_s=attempt.last_event - attempt.first_event,
                prompt_tokens=usage.prompt_tokens,
                cached_tokens=min(told, usage.prompt_tokens),
                output_tokens=usage.completion_tokens,
                queued_tokens=attempt.queued_tokens,
                in_flight=attempt.in_flight,
                expected_first_s=attempt.expected_ttft_s,
                expected_cached_tokens=attempt.expected_cached_tokens,
            ),
            self._clock(),
        )
