"""The joint: what the live fleet sees of a simulated request, and of other gateways."""

from __future__ import annotations

import random

import pytest

from gateway.domain import Usage
from gateway.replay.gateways import (
    Gateway,
    Load,
    Setup,
    inference_request,
    look_around,
    make_gateways,
)
from gateway.replay.machines import Machines
from gateway.replay.trace import TraceRequest
from tests.replay.drive import packaged

REQUEST = inference_request(TraceRequest(0.0, 1100, 5, (7, 8, 9)), 512)
IDLE = Load(0, 0)


def gateways(setup: Setup) -> list[Gateway]:
    endpoints = Machines(replicas=2).endpoints
    policy = packaged("cache_aware")
    return make_gateways(setup, endpoints, policy, lambda: 0.0, random.Random(0))


def test_prefix_keys_end_where_the_blocks_do_and_with_the_prompt() -> None:
    assert [key.size for key in REQUEST.prefix] == [2048, 4096, 4400]
    assert REQUEST.prompt_size == 4400


def test_equal_blocks_are_equal_keys() -> None:
    other = inference_request(TraceRequest(9.0, 1024, 5, (7, 8)), 512)
    assert other.prefix == REQUEST.prefix[:2]


def test_an_exchange_is_counted_from_the_choice_to_the_last_token() -> None:
    (gateway,) = gateways(Setup())
    exchange = gateway.open(REQUEST)
    name = exchange.attempt.endpoint
    load = gateway.load()[name]
    assert load.in_flight == 1
    assert load.queued_tokens > 1000
    assert load.active_tokens == load.queued_tokens
    gateway.first_event(exchange, steps=1)
    assert gateway.load()[name] == Load(1, 0, load.active_tokens + 1)
    gateway.stepped(name, 4)
    assert gateway.load()[name] == Load(1, 0, load.active_tokens + 5)
    gateway.finished(exchange, 5, Usage(1100, 5, 0), None)
    assert gateway.load()[name] == IDLE


def test_what_an_answer_tells_is_learnt() -> None:
    (gateway,) = gateways(Setup())
    exchange = gateway.open(REQUEST)
    gateway.first_event(exchange, steps=1)
    gateway.finished(exchange, 5, Usage(1100, 5, 0), None)
    again = gateway.open(REQUEST).attempt
    assert again.endpoint == exchange.attempt.endpoint
    assert again.expected_cached_tokens in (1099, 1100)  # all, or all but the last


@pytest.mark.parametrize(
    ("counters", "seen"), [("own", IDLE), ("exact", Load(1, 1232, 1232)), (1.0, IDLE)]
)
def test_what_one_gateway_knows_of_anothers_load(counters: float | str, seen: Load) -> None:
    one, other = gateways(Setup(2, counters))
    exchange = one.open(REQUEST)
    assert other.load()[exchange.attempt.endpoint] == seen


def test_a_look_at_the_others_adds_their_load_and_not_ones_own() -> None:
    one, other = gateways(Setup(2, 1.0, shared_index=False))
    exchange = one.open(REQUEST)
    name = exchange.attempt.endpoint
    look_around([one, other])
    assert other.others[name] == Load(1, 1232, 1232)
    assert one.others[name] == IDLE
    assert other.open(REQUEST).attempt.endpoint != name


@pytest.mark.parametrize(("shared", "known"), [(True, 1), (False, 0)])
def test_placements_are_known_to_all_when_the_index_is_shared(shared: bool, known: int) -> None:
    one, other = gateways(Setup(2, "own", shared_index=shared))
    one.open(REQUEST)
    _, _, matches = other.fleet.snapshot(REQUEST)
    assert len(matches) == known
