"""Full endpoints: who waits, who comes next, who is sent away."""

from __future__ import annotations

import asyncio

import openai
import pytest

from gateway.config.bind import Seconds, Secret
from gateway.config.tree import Key, Patience, Queue, Tenant
from tests.support.gateways import gateway
from tests.support.upstream import Upstream

KEYS = tuple(
    Key(name, Secret(f"sk-key-{name}"), tenant=name, request_class=priority)
    for name, priority in (("ann", "standard"), ("bob", "standard"), ("ivy", "interactive"))
)

pytestmark = pytest.mark.anyio


def one_at_a_time(upstream, **options):
    return gateway(upstream, keys=KEYS, endpoint={"max_in_flight": 1}, **options)


def ask(g, key: str, text: str = "hi", **headers: str) -> asyncio.Task:
    sdk = g.sdk.with_options(api_key=f"sk-key-{key}", default_headers=headers)
    messages = [{"role": "user", "content": text}]
    return asyncio.create_task(sdk.chat.completions.create(model="m", messages=messages))


async def waiting(g, count: int) -> None:
    async with asyncio.timeout(30):
        while len(g.gateway.dispatcher.queue) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def order(upstream) -> list[str]:
    return [r.body["messages"][0]["content"] for r in upstream.received]


async def held(g, upstream) -> asyncio.Task:
    """One request that fills the endpoint."""
    task = ask(g, "ann", "first")
    await asyncio.wait_for(upstream.asked.wait(), 30)
    return task


async def test_requests_wait_for_room_and_the_greedy_tenant_does_not_starve_the_other():
    upstream = Upstream(hold_headers=asyncio.Event())
    async with one_at_a_time(upstream) as g:
        tasks = [await held(g, upstream)]
        for index in range(6):
            tasks.append(ask(g, "ann", f"ann {index}"))
            await waiting(g, index + 1)
        tasks.append(ask(g, "bob", "bob"))
        await waiting(g, 7)
        upstream.hold_headers.set()
        await asyncio.gather(*tasks)
    assert upstream.running == 0
    assert order(upstream).index("bob") <= 2


async def test_the_more_urgent_class_comes_first_and_a_caller_may_only_be_modest():
    upstream = Upstream(hold_headers=asyncio.Event())
    async with one_at_a_time(upstream) as g:
        tasks = [await held(g, upstream)]
        for count, (key, text, headers) in enumerate(
            [
                ("bob", "batch", {"x-gateway-class": "batch"}),
                ("bob", "plain", {}),
                ("ivy", "ivy", {}),
            ]
        ):
            tasks.append(ask(g, key, text, **headers))
            await waiting(g, count + 1)
        with pytest.raises(openai.PermissionDeniedError):
            await ask(g, "bob", **{"x-gateway-class": "interactive"})
        with pytest.raises(openai.BadRequestError):
            await ask(g, "bob", **{"x-gateway-class": "royal"})
        upstream.hold_headers.set()
        await asyncio.gather(*tasks)
    assert order(upstream) == ["first", "ivy", "plain", "batch"]


async def test_a_tenant_of_double_weight_gets_double_turns():
    upstream = Upstream(hold_headers=asyncio.Event())
    async with one_at_a_time(upstream, tenants={"bob": Tenant(weight=2)}) as g:
        tasks = [await held(g, upstream)]
        for index in range(12):
            tasks.append(ask(g, ("ann", "bob")[index % 2], ("ann", "bob")[index % 2]))
            await waiting(g, index + 1)
        upstream.hold_headers.set()
        await asyncio.gather(*tasks)
    assert 5 <= order(upstream)[1:9].count("bob") <= 6


async def test_a_full_queue_sends_the_least_urgent_away():
    upstream = Upstream(hold_headers=asyncio.Event())
    async with one_at_a_time(upstream, queue=Queue(size=2)) as g:
        tasks = [await held(g, upstream)]
        tasks.append(ask(g, "bob", "kept"))
        await waiting(g, 1)
        shed = ask(g, "bob", "shed", **{"x-gateway-class": "batch"})
        await waiting(g, 2)
        tasks.append(ask(g, "ivy", "urgent"))
        with pytest.raises(openai.InternalServerError) as caught:
            await shed
        with pytest.raises(openai.InternalServerError):
            await ask(g, "bob", "too much")
        upstream.hold_headers.set()
        await asyncio.gather(*tasks)
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert order(upstream) == ["first", "urgent", "kept"]


async def test_nobody_waits_longer_than_the_patience_of_the_class():
    upstream = Upstream(hold_headers=asyncio.Event())
    patience = Patience(standard=Seconds(0.1))
    async with one_at_a_time(upstream, queue=Queue(patience=patience)) as g:
        first = await held(g, upstream)
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(g, "bob")
        assert len(g.gateway.dispatcher.queue) == 0
        upstream.hold_headers.set()
        await first
    assert caught.value.code == "overloaded"


async def test_who_hangs_up_while_waiting_leaves_no_trace():
    upstream = Upstream(hold_headers=asyncio.Event())
    async with one_at_a_time(upstream) as g:
        first = await held(g, upstream)
        gone, kept = ask(g, "bob", "gone"), ask(g, "bob", "kept")
        await waiting(g, 2)
        gone.cancel()
        await g.settled.wait_for(1)
        upstream.hold_headers.set()
        await asyncio.gather(first, kept)
        endpoint = g.gateway.fleet.endpoints["u0"]
        assert (endpoint.in_flight, endpoint.promised) == (0, 0)
    assert order(upstream) == ["first", "kept"]


async def test_a_request_that_may_go_elsewhere_does_not_wait():
    busy, idle = Upstream(hold_headers=asyncio.Event()), Upstream()
    async with gateway(busy, idle, keys=KEYS, endpoint={"max_in_flight": 1}) as g:
        first = await held(g, busy)
        await ask(g, "bob", "second")
        busy.hold_headers.set()
        await first
    assert order(idle) == ["second"]


async def test_a_replica_of_ours_is_told_the_class():
    upstream = Upstream()
    replica = {"dialect": "replica", "secret": Secret("between-us")}
    async with gateway(upstream, keys=KEYS, endpoint=replica) as g:
        await ask(g, "ivy")
        await ask(g, "ann")
        await ask(g, "ivy", **{"x-gateway-class": "batch"})
    assert [r.body["priority"] for r in upstream.received] == [0, 1, 2]
