"""Hints draw requests of one name together, softly; what everybody shares draws nobody."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.config.load import PACKAGED, load_policy
from gateway.domain import Attempt, InferenceRequest, Outcome, Principal, Usage
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Fleet
from gateway.fleet.hints import FIRST_SHARE, Hints
from gateway.fleet.placement import Match, PlacementIndex
from routing_policies.base import Context
from routing_policies.catalog import Catalog
from tests.support.clock import ManualClock
from tests.support.providers import Silent
from tests.support.requests import chat, parsed

CACHE_AWARE = load_policy(PACKAGED / "cache_aware.yaml", Catalog.load())


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        endpoints = [Endpoint(name, frozenset("m"), provider=Silent()) for name in "abcd"]
        self.fleet = Fleet(endpoints, PlacementIndex(), self.clock)

    def cached(self, request: InferenceRequest) -> dict[str, int]:
        _, candidates, _ = self.fleet.snapshot(request)
        return {c.endpoint: c.cached_tokens for c in candidates if c.cached_tokens}

    def choose(self, request: InferenceRequest, draw: float) -> str:
        asked, candidates, _ = self.fleet.snapshot(request)
        decision = CACHE_AWARE.decide(asked, candidates, Context(self.clock(), draw))
        return decision.ranked[0].candidate.endpoint

    def serve(self, request: InferenceRequest, endpoint: str, cached: int | None = 0) -> None:
        _, _, matches = self.fleet.snapshot(request)
        match = matches.get(endpoint, Match(0, None, 0.0))
        attempt = Attempt(endpoint, self.clock(), matched_size=match.size, hinted=match.hinted)
        self.fleet.sent(request, endpoint)
        outcome = Outcome("id", Principal("acme", "key"), 0.0, request=request)
        outcome.attempts, outcome.usage = [attempt], Usage(request.prompt_size // 4, 10, cached)
        self.fleet.settled(outcome)


@pytest.fixture
def world() -> World:
    return World()


def text(name: str) -> str:
    return name * 2000


@pytest.mark.parametrize("field", ["prompt_cache_key", "user", "session_id"])
def test_a_name_points_where_its_last_request_went(world: World, field: str) -> None:
    world.serve(chat(text("x"), **{field: "one"}), "c")
    hinted = world.cached(chat(text("y"), **{field: "one"}))
    assert list(hinted) == ["c"]
    assert hinted["c"] < 0.1 * 1000
    assert world.cached(chat(text("y"), **{field: "two"})) == {}
    assert {world.choose(chat(text("y"), **{field: "one"}), i / 10) for i in range(10)} == {"c"}


def test_names_are_kept_apart_by_tenant_and_by_field(world: World) -> None:
    world.serve(chat(text("x"), user="one"), "c")
    assert world.cached(chat(text("y"), user="one", tenant="other")) == {}
    assert world.cached(chat(text("y"), prompt_cache_key="one")) == {}


def test_a_header_names_a_session_as_the_body_does() -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
    assert parsed(body).hints == ()
    assert chat(session_id="s").hints == chat("other", session_id="s").hints != ()


def test_a_prefix_that_is_known_comes_before_a_hint(world: World) -> None:
    world.serve(chat(text("x")), "a")
    world.serve(chat(text("z"), user="one"), "c")
    assert list(world.cached(chat(text("x"), user="one"))) == ["a"]


def test_where_all_know_the_same_prefix_a_hint_still_counts(world: World) -> None:
    system = text("s")
    for endpoint in "abcd":
        world.serve(chat(system, "ok", endpoint), endpoint)
    world.serve(chat(system, "ok", text("x"), user="one"), "c")
    known = world.cached(chat(system, "ok", text("y"), user="one"))
    assert max(known, key=lambda name: known[name]) == "c"


def test_a_hint_is_worth_what_answers_told_of_such(world: World) -> None:
    for number in range(20):
        world.serve(chat(text(str(number)), user="one"), "c", cached=400)
    draws = world.cached(chat(text("y"), user="one"))["c"]
    for number in range(80):
        world.serve(chat(text(f"z{number}"), user="one"), "c", cached=0)
    assert world.cached(chat(text("y"), user="one"))["c"] < draws / 4


def test_a_hint_that_was_wrong_is_no_failing_of_the_endpoints_cache(world: World) -> None:
    for number in range(10):
        world.serve(chat(text(str(number)), user="one"), "c", cached=0)
    assert world.fleet.endpoints["c"].learning.coefficients.hit_rate == 1


def test_a_hinted_request_that_came_to_nothing_leaves_no_belief(world: World) -> None:
    world.serve(chat(text("x"), user="one"), "c")
    request = chat(text("y"), user="one")
    _, _, matches = world.fleet.snapshot(request)
    world.fleet.sent(request, "c")
    attempt = Attempt("c", 0.0, matched_size=matches["c"].size, hinted=True)
    world.fleet.failed(request, attempt)
    assert world.cached(chat(text("y"))) == {}


served = st.lists(
    st.tuples(st.sampled_from("xy"), st.sampled_from("pqr"), st.sampled_from("abcd")), max_size=12
)


@given(served)
def test_a_tenant_finds_nothing_of_anothers_and_nothing_less_for_them(
    traffic: list[tuple[str, str, str]],
) -> None:
    shared, alone = World(), World()
    for tenant, prompt, endpoint in traffic:
        request = chat(text(prompt), tenant=tenant, user="one")
        shared.serve(request, endpoint)
        if tenant == "x":
            alone.serve(request, endpoint)
    for prompt in "pqr":
        other = chat(text(prompt), tenant="z", user="one")
        assert shared.fleet.snapshot(other)[2] == {}
        own = chat(text(prompt), tenant="x")
        assert shared.fleet.snapshot(own)[2] == alone.fleet.snapshot(own)[2]


def test_hints_are_bounded_and_end() -> None:
    hints = Hints(capacity=2, ttl_s=10)
    for name in ("one", "two", "three"):
        hints.sent([name], "a", now=0.0)
    assert len(hints) == 2
    assert hints.endpoint(["one"], now=1.0) is None
    assert hints.endpoint(["one", "three"], now=10.0) == "a"
    assert hints.endpoint(["three"], now=10.1) is None
    assert hints.share == FIRST_SHARE


def test_a_system_prompt_that_everybody_shares_herds_nobody(world: World) -> None:
    """Requests in flight at once, all beginning alike: they spread, and once all have the
    beginning, each is as good as the next."""
    system = text("s")
    leases, went = [], Counter[str]()
    for number in range(40):
        request = chat(system, "ok", text(str(number)))
        chosen = world.choose(request, draw=number / 40)
        went[chosen] += 1
        world.fleet.sent(request, chosen)
        leases.append(world.fleet.endpoints[chosen].lease(1000, world.clock()))
    assert min(went[name] for name in "abcd") >= 5
    for lease in leases:
        lease.end()
    firsts = Counter(world.choose(chat(system, "ok", text(f"new{i}")), i / 40) for i in range(40))
    assert min(firsts[name] for name in "abcd") >= 5
