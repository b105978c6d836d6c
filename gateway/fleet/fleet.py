"""All endpoints: snapshots for a decision, and what each exchange teaches us."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from gateway.domain import Attempt, BilledBy, InferenceRequest, Outcome, ReplicaReport, Usage
from gateway.errors import UpstreamError
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.hints import Hints
from gateway.fleet.learning import Average, Observation, from_peers
from gateway.fleet.placement import NO_MATCH, Match, PlacementIndex
from gateway.fleet.tokens import TokenRatio, fewest
from routing_policies.base import DATA_POLICIES, FREE, Candidate, Coefficients, RouteRequest

Clock = Callable[[], float]

OUTPUT_GUESS = 200.0
"""Tokens of an answer, before a tenant's have been seen: near the medians of public traces."""

DOUBT = 1.3
"""By so much an estimate of tokens may be too low before it says that a prompt surely fits."""


class Fleet:
    """`clock` is monotonic; `wall`, in seconds since 1970, says which prices hold."""

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        index: PlacementIndex,
        clock: Clock,
        wall: Clock = time.time,
    ) -> None:
        self.endpoints: Mapping[str, Endpoint] = {e.name: e for e in endpoints}
        self._index = index
        self._tokens = TokenRatio()
        self._lengths: dict[tuple[str, str], Average] = {}  # output tokens by tenant and model
        self._hints = Hints()
        self._clock = clock
        self._wall = wall

    def models(self) -> list[str]:
        """Every model that clients may ask for, in the order of the config."""
        names = [name for e in self.endpoints.values() for name in sorted(e.models)]
        return list(dict.fromkeys(names))

    def serves(self, model: str) -> bool:
        return any(model in endpoint.models for endpoint in self.endpoints.values())

    def ready(self) -> bool:
        return any(endpoint.ready for endpoint in self.endpoints.values())

    def snapshot(
        self, request: InferenceRequest, asked: RouteRequest | None = None
    ) -> tuple[RouteRequest, list[Candidate], Mapping[str, Match]]:
        """What a policy decides on, and the placements behind each candidate's cached tokens;
        `asked` where it is known already."""
        now, wall = self._clock(), self._wall()
        asked = asked or self.expected(request)
        matches = self._index.match(request.prefix, now)
        if request.hints:
            matches = self._with_hint(request, matches, now)
        model, candidates = request.model, []
        for name, endpoint in self.endpoints.items():
            match = matches.get(name)
            cached = 0 if match is None else self._cached_tokens(request, match)
            tariff = endpoint.tariffs.get(model)
            price = tariff.at(wall, asked.prompt_tokens, request.service_tier) if tariff else FREE
            candidates.append(endpoint.snapshot(model, cached, price, now))
        return asked, candidates, matches

    def _with_hint(
        self, request: InferenceRequest, matches: Mapping[str, Match], now: float
    ) -> Mapping[str, Match]:
        """Where what is known of prefixes tells no endpoint from another, the caller's hint may."""
        hinted = self._hints.endpoint(request.hints, now)
        known = {match.size for match in matches.values()}
        everywhere = len(known) == 1 and matches.keys() == self.endpoints.keys()
        if hinted is None or hinted not in self.endpoints or (matches and not everywhere):
            return matches
        match = matches.get(hinted, NO_MATCH)
        more = round(self._hints.share * (request.prompt_size - match.size))
        tokens = self._cached_tokens(request, match) + self._tokens.estimate(request.model, more)
        return {**matches, hinted: Match(match.size + more, tokens, 0.0, hinted=True)}

    def may_not_fit(self, request: InferenceRequest, asked: RouteRequest) -> bool:
        """Whether it takes an exact count to know if each endpoint's context holds its prompt."""
        if asked.prompt_exact or not request.operation.writes:
            return False
        least, most = asked.fewest_prompt_tokens, asked.prompt_tokens * DOUBT
        for endpoint in self.endpoints.values():
            length = endpoint.context_length
            if length is not None and least < length <= most and request.model in endpoint.models:
                return True
        return False

    def rests(self, model: str) -> Mapping[str, UpstreamError]:
        """What the endpoints that rest said, with what is left of their time."""
        now = self._clock()
        said: dict[str, UpstreamError] = {}
        for name, endpoint in self.endpoints.items():
            rest = endpoint.resting(model, now)
            if model in endpoint.models and rest is not None:
                left = max(0.0, rest.until - now)
                said[name] = type(rest.error)(rest.error.message, retry_after_s=left)
        return said

    def expected(self, request: InferenceRequest) -> RouteRequest:
        """What a policy is told of this request."""
        model, most = request.model, request.max_tokens
        length = self._lengths.get((request.tenant, model))
        expected = length.mean if length else OUTPUT_GUESS
        if not request.operation.writes:
            expected = 0.0
        elif most is not None and most < expected:
            expected = most
        tokens, exact = self._tokens.count(request)
        facts = (
            model,
            tokens,
            most,
            expected,
            fewest(request),
            request.request_class,
            request.needs,
            request.data_policy or DATA_POLICIES[0],
            exact,
            None,
        )
        return tuple.__new__(RouteRequest, facts)

    def dearest(
        self, request: InferenceRequest, asked: RouteRequest, models: Iterable[str]
    ) -> float:
        """Dollars that this request is expected to cost at most, wherever it goes."""
        now, wall, most = self._clock(), self._wall(), 0.0
        for endpoint in self.endpoints.values():
            for model in models:
                if model in endpoint.models:
                    price = endpoint.tariff(model).at(
                        wall, asked.prompt_tokens, request.service_tier
                    )
                    dollars = price.dollars(asked.prompt_tokens, 0, asked.output_tokens)
                    most = max(most, dollars + endpoint.start_usd(now))
        return most

    def _cached_tokens(self, request: InferenceRequest, match: Match) -> int:
        if match.tokens is not None:
            return match.tokens
        return self._tokens.estimate(request.model, match.size)

    def sent(self, request: InferenceRequest, endpoint: str) -> None:
        """A request is on its way: the next one that begins like it should find it there."""
        now = self._clock()
        self.endpoints[endpoint].sent(request.model, now)
        self._index.place(endpoint, request.prefix, now)
        self._hints.sent(request.hints, endpoint, now)

    def failed(self, request: InferenceRequest, attempt: Attempt) -> None:
        """An attempt ended before its first event: whatever it was to leave in a cache is void."""
        self._index.forget(
            attempt.endpoint, request.prefix, beyond=0 if attempt.hinted else attempt.matched_size
        )

    def settled(self, outcome: Outcome) -> None:
        now = self._clock()
        for attempt in outcome.attempts:
            endpoint = self.endpoints[attempt.endpoint]
            if attempt.failed:
                endpoint.learning.failed(now)
            if attempt.first_event is not None:
                endpoint.answered(attempt.last_event or attempt.first_event)
        last, request, usage = outcome.answering, outcome.request, outcome.usage
        if last is None or request is None:
            return
        if outcome.report is not None:
            self.reported(last.endpoint, outcome.report, last.started)
        if usage is not None and usage.prompt_tokens > 0:  # some count nothing
            self._learn_place(request, last, usage, now, lru=outcome.report is not None)
            self._learn_speed(request, last, usage, now)

    def bill(self, outcome: Outcome) -> None:
        """What each attempt cost us, marginally: the endpoint's own word for it, else the told
        tokens at our rates, else, of an answer that had begun, its prompt and what came of it."""
        for attempt in outcome.attempts:
            usage = attempt.billed
            if usage is not None and outcome.request is not None:
                attempt.cached_tokens = usage.cached_tokens
                attempt.billed_usd, attempt.billed_by = self._billed(
                    attempt, outcome.request, usage
                )
            elif attempt.first_event is not None:
                attempt.billed_usd = self._estimated(attempt, outcome)
                attempt.billed_by = BilledBy.ESTIMATE

    def _estimated(self, attempt: Attempt, outcome: Outcome) -> float:
        request = outcome.request
        chosen = next((c for c in outcome.considered if c.endpoint == attempt.endpoint), None)
        if chosen is None or request is None:
            return attempt.expected_cost_usd
        prompt = chosen.uncached_tokens + chosen.cached_tokens
        tariff = self.endpoints[attempt.endpoint].tariff(request.model)
        price = tariff.at(self._wall(), prompt, request.service_tier)
        tokens = price.dollars(
            chosen.uncached_tokens, chosen.cached_tokens, attempt.delivered_tokens
        )
        return tokens + attempt.start_usd

    def _billed(
        self, attempt: Attempt, request: InferenceRequest, usage: Usage
    ) -> tuple[float, BilledBy]:
        if usage.cost_usd is not None:
            return usage.cost_usd, BilledBy.REPORT
        # Some answer in another tier than they were asked for, and bill that one.
        tier = usage.service_tier or request.service_tier
        tariff = self.endpoints[attempt.endpoint].tariff(request.model)
        price = tariff.at(self._wall(), usage.prompt_tokens, tier)
        cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
        tokens = price.dollars(usage.prompt_tokens - cached, cached, usage.completion_tokens)
        return tokens + attempt.start_usd, BilledBy.TARIFF

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
        self, request: InferenceRequest, attempt: Attempt, usage: Usage, now: float, *, lru: bool
    ) -> None:
        self._tokens.answered(request, usage.prompt_tokens)
        if attempt.hinted and usage.cached_tokens is not None:
            self._hints.learn(usage.cached_tokens, usage.prompt_tokens, now)
        believed = None if attempt.hinted else attempt.matched_tokens
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

    def _learn_speed(
        self, request: InferenceRequest, attempt: Attempt, usage: Usage, now: float
    ) -> None:
        asked = (request.tenant, request.model)
        length = self._lengths.get(asked)
        if length is None:
            length = self._lengths[asked] = Average(OUTPUT_GUESS, weight=1)
        length.learn(usage.completion_tokens, now)
        if attempt.first_event is None or attempt.last_event is None:
            return
        if attempt.start_s or attempt.resumed:
            return  # a machine had to start; or a part of the answer was computed as a prompt
        # What was not told is taken as expected: it teaches nothing of the cache.
        told = (
            attempt.expected_cached_tokens if usage.cached_tokens is None else usage.cached_tokens
        )
        endpoint = self.endpoints[attempt.endpoint]
        endpoint.learning.answered(
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
                # What only a hint had promised is no failing of its cache.
                expected_cached_tokens=0 if attempt.hinted else attempt.expected_cached_tokens,
            ),
            now,
        )
        self._introduce_peers_of(endpoint)

    def _introduce_peers_of(self, known: Endpoint) -> None:
        """Endpoints of its kind that have not answered yet start from what theirs have taught."""
        new = [e for e in self.endpoints.values() if e.learning.untaught and e.is_peer_of(known)]
        if new:
            peers = [e for e in self.endpoints.values() if e.is_peer_of(known)]
            taught = [e.learning.coefficients for e in peers if e not in new]
            prior = from_peers(taught, Coefficients())
            for endpoint in new:
                endpoint.learning.start_from(prior)
