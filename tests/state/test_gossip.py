"""What one gateway places and has in flight, the others know; of a dead one, nothing stays."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from gateway.config.bind import Secret
from gateway.config.tree import State
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.load import IDLE
from gateway.state.connect import connect
from gateway.state.embedded import embedded
from gateway.state.gossip import Gossip, SharedIndex
from routing_policies.base import Price
from tests.support.clock import ManualClock
from tests.support.gateways import gateway
from tests.support.providers import Silent
from tests.support.requests import chat
from tests.support.serving import serving
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

ASK = {"model": "m", "messages": [{"role": "user", "content": "a long story " * 200}]}


@pytest.fixture
def server():
    with embedded() as running:
        yield running


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def speaking(server, name: str, clock, **options):
    redis = connect(server.url, 5.0)
    endpoint = Endpoint("e", frozenset({"m"}), provider=Silent(), max_in_flight=8)
    gossip = Gossip(redis, name, {"e": endpoint}, SharedIndex({"e"}, clock), clock, **options)
    async with gossip.running():
        yield gossip, endpoint
    await redis.aclose()


async def test_a_placement_is_known_everywhere_and_so_is_its_end(server):
    here, there = ManualClock(1000), ManualClock(77)  # clocks share no origin
    keys = chat("once upon a time " * 50).prefix
    async with speaking(server, "a", here) as (a, _), speaking(server, "b", there) as (b, _):
        a.index.place("e", keys, here(), prompt_tokens=200)
        await until(lambda: b.index.match(keys, there()))
        match = b.index.match(keys, there())["e"]
        assert (match.size, match.tokens) == (keys[-1].size, 200)
        a.index.place("private", keys, here())
        a.index.expire("e", before=here() + 1)
        await until(lambda: not b.index.match(keys, there()))


async def test_a_placement_that_came_to_nothing_is_taken_back_everywhere(server):
    clock = ManualClock()
    keys = chat("once upon a time " * 50).prefix
    async with speaking(server, "a", clock) as (a, _), speaking(server, "b", clock) as (b, _):
        a.index.place("e", keys, clock())
        await until(lambda: b.index.match(keys, clock()))
        a.index.forget("e", keys, beyond=keys[0].size)
        await until(lambda: b.index.match(keys, clock())["e"].size == keys[0].size)


async def test_a_newcomer_hears_what_was_said_before(server):
    clock = ManualClock()
    keys = chat("once upon a time " * 50).prefix
    async with speaking(server, "a", clock) as (a, _):
        a.index.place("e", keys, clock())
        await until(lambda: not a.index.news)
        await asyncio.sleep(0.1)
        async with speaking(server, "b", clock) as (b, _):
            await until(lambda: b.index.match(keys, clock()))


async def test_load_is_added_up_and_dies_with_its_gateway(server):
    here, there = ManualClock(), ManualClock()
    async with (
        speaking(server, "b", there) as (_, endpoint),
        speaking(server, "a", here) as (a, busy),
    ):
        with busy.lease(300, here()):
            await until(lambda: endpoint.elsewhere.in_flight == 1)
            assert endpoint.snapshot("m", 0, Price(), there()).queued_tokens == 300
            there.advance(11)  # not a word for so long
            await until(lambda: endpoint.elsewhere == IDLE)
        await until(lambda: a._told == {})


@pytest.mark.parametrize(
    "told",
    [
        b"not JSON",
        b"[]",
        b'{"loads": [], "news": []}',
        b'{"loads": {"e": [1, "many", {}]}, "news": []}',
        b'{"loads": {"e": null}, "news": []}',
        b'{"loads": {"e": [1, 1, {"t": "two"}]}, "news": []}',
        b'{"loads": {}, "news": [{"age": null, "what": []}]}',
        b'{"loads": {}, "news": [{"age": 0, "what": ["place", "e", [["zz", 1]], 5]}]}',
        b'{"loads": {}, "news": [[]]}',
    ],
)
async def test_what_makes_no_sense_is_passed_over_and_the_next_word_heard(server, told, caplog):
    clock = ManualClock()
    async with (
        speaking(server, "b", clock) as (b, endpoint),
        speaking(server, "a", clock) as (a, _),
    ):
        await b.redis.xadd(b.stream, {"from": "newer", "told": told})
        with a.endpoints["e"].lease(300, clock()):
            await until(lambda: endpoint.elsewhere.in_flight == 1)
    assert "makes no sense" in caplog.text


async def test_what_was_said_long_ago_is_as_old_as_it_is_to_a_newcomer(server):
    clock = ManualClock()
    old, new = chat("once upon a time " * 50).prefix, chat("in another story " * 50).prefix
    placed = [["place", "e", [[old[0].digest.hex(), old[0].size]], 9]]
    news = [{"age": 0, "what": what} for what in placed]
    told = json.dumps({"loads": {"e": [8, 300, {"t": 8}]}, "news": news})
    redis = connect(server.url, 5.0)
    await redis.xadd("{gateway}:gossip", {"from": "dead", "told": told}, id="1000-0")
    async with speaking(server, "a", clock) as (a, _):
        a.index.place("e", new, clock())
        await until(lambda: not a.index.news)
        async with speaking(server, "b", clock) as (b, endpoint):
            await until(lambda: b.index.match(new, clock()))
            assert endpoint.elsewhere == IDLE
            b.index.expire("e", before=clock() - 3600)
            assert not b.index.match(old, clock())
            assert b.index.match(new, clock())
    await redis.aclose()


async def test_a_lost_connection_makes_nothing_be_heard_twice(server):
    clock = ManualClock()
    keys = [chat(f"{name} upon a time " * 50).prefix for name in ("once", "twice", "thrice")]
    redis = connect(server.url, 5.0)
    async with speaking(server, "a", clock) as (a, _), speaking(server, "b", clock) as (b, _):
        a.index.expire("e", before=clock() + 1)  # a replica began another life
        a.index.place("e", keys[0], clock() + 2)
        await until(lambda: b.index.match(keys[0], clock()))
        clock.advance(5)
        b.index.place("e", keys[1], clock())
        await redis.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0.5)
        a.index.place("e", keys[2], clock())
        await until(lambda: b.index.match(keys[2], clock()))
        assert b.index.match(keys[1], clock())
    await redis.aclose()


async def test_a_gateway_that_tells_no_tenants_is_counted_all_the_same(server):
    clock = ManualClock()
    told = b'{"loads": {"e": [3, 300]}, "news": []}'  # as an earlier version said it
    async with speaking(server, "b", clock) as (b, endpoint):
        await b.redis.xadd(b.stream, {"from": "older", "told": told})
        await until(lambda: endpoint.elsewhere == (3, 300))


async def test_while_the_server_is_lost_each_fills_its_share_or_nothing_and_then_all_again(server):
    here, there = ManualClock(), ManualClock()
    async with (
        speaking(server, "b", there) as (b, open_),
        speaking(server, "a", here, closed=True) as (a, closed),
    ):
        await until(lambda: a._others and b._others)
        with open_.lease(300, there(), tenant="t"):
            await until(lambda: closed.elsewhere.in_flight == 1)
            assert closed.places.users["t"].elsewhere == 1
            server.stop()
            await until(lambda: open_.limit == 4 and closed.limit == 0)
            assert closed.full("t", 0.0)
            assert closed.elsewhere == IDLE
            there.advance(100)  # the other one is not forgotten for being out of hearing
            await asyncio.sleep(0.3)
            assert open_.limit == 4
            server.start()
            await until(lambda: open_.limit == closed.limit == 8)
            await until(lambda: closed.elsewhere.in_flight == 1)


async def test_two_gateways_send_one_conversation_to_one_endpoint(server):
    first, second = Upstream(), Upstream()
    state = State(redis=Secret(server.url))
    async with serving(first) as one, serving(second) as two:
        urls = (f"{one}/v1", f"{two}/v1")
        async with gateway(*urls, state=state) as a, gateway(*urls, state=state) as b:
            b.gateway.fleet.endpoints["u0"].chosen_at["m"] = b.gateway.clock()
            chosen = await a.sdk.chat.completions.with_raw_response.create(**ASK)
            placed = chosen.headers["x-gateway-endpoint"]
            (outcome,) = await a.settled.wait_for(1)
            keys = outcome.request.prefix
            index = b.gateway.gossip.index
            await until(lambda: index.match(keys, b.gateway.clock()))
            for _ in range(3):
                again = await b.sdk.chat.completions.with_raw_response.create(**ASK)
                assert again.headers["x-gateway-endpoint"] == placed
            assert b.settled.outcomes[0].attempts[0].matched_size > 0


async def test_endpoints_full_of_another_gateways_requests_are_full(server):
    upstream = Upstream(hold_headers=asyncio.Event())
    state = State(redis=Secret(server.url))
    async with serving(upstream) as url:
        options = {"state": state, "endpoint": {"max_in_flight": 1}}
        async with (
            gateway(f"{url}/v1", **options) as a,
            gateway(f"{url}/v1", **options) as b,
        ):
            first = asyncio.create_task(a.sdk.chat.completions.create(**ASK))
            await until(lambda: b.gateway.fleet.endpoints["u0"].full("default", 0.0))
            second = asyncio.create_task(b.sdk.chat.completions.create(**ASK))
            await until(lambda: len(b.gateway.dispatcher.queue) == 1)
            assert len(upstream.received) == 1
            upstream.hold_headers.set()
            await asyncio.gather(first, second)


async def test_gateways_that_began_without_the_server_share_their_tenants_secret_later(server):
    server.stop()
    state = State(redis=Secret(server.url))
    async with gateway(Upstream(), state=state) as a, gateway(Upstream(), state=state) as b:
        assert a.gateway.door.secret != b.gateway.door.secret
        server.start()
        await until(lambda: a.gateway.door.secret == b.gateway.door.secret)
