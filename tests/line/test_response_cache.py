"""Answers given again: to whom, for how long, and which never."""

from __future__ import annotations

import pytest

from gateway.admission.response_cache import CacheLimits, ResponseCache
from gateway.config.bind import Bytes, Seconds, Secret
from gateway.config.tree import Cache, Key
from gateway.wire.openai import encode_json, parse_event
from tests.support.clock import ManualClock
from tests.support.gateways import gateway
from tests.support.requests import chat
from tests.support.upstream import Upstream

KEYS = tuple(Key(name, Secret(f"sk-key-{name}"), tenant=name) for name in ("ann", "bob"))
MODELS = Cache(models={"m": Seconds(60)})

pytestmark = pytest.mark.anyio


def caching(upstream, cache: Cache = MODELS):
    return gateway(upstream, keys=KEYS, api_key="sk-key-ann", cache=cache)


async def ask(g, key: str = "ann", text: str = "hi", **options):
    headers = {"x-gateway-cache": options.pop("cache")} if "cache" in options else {}
    sdk = g.sdk.with_options(api_key=f"sk-key-{key}", default_headers=headers)
    messages = [{"role": "user", "content": text}]
    options = {"temperature": 0, **options}
    answer = await sdk.chat.completions.with_raw_response.create(
        model="m", messages=messages, **options
    )
    return answer.headers.get("x-gateway-cache"), answer.parse()


async def text(stream) -> str:
    return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])


async def test_the_same_request_gets_the_same_answer_without_an_endpoint():
    upstream = Upstream()
    async with caching(upstream) as g:
        (_, first), (how, second) = await ask(g), await ask(g)
        outcomes = await g.settled.wait_for(2)
    assert how == "hit"
    assert second.choices == first.choices
    assert second.usage == first.usage
    assert len(upstream.received) == 1
    assert outcomes[1].attempts == []


async def test_a_stream_is_given_again_as_a_stream():
    upstream = Upstream()
    async with caching(upstream) as g:
        first = await text((await ask(g, stream=True))[1])
        how, stream = await ask(g, stream=True)
        assert await text(stream) == first == "Hello there"
    assert how == "hit"
    assert len(upstream.received) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"key": "bob"},
        {"text": "ho"},
        {"max_tokens": 9},
        {"stream": True},
        {"extra_body": {"cache_salt": "mine"}},
    ],
)
async def test_another_tenant_or_request_gets_its_own(other):
    upstream = Upstream()
    async with caching(upstream) as g:
        await ask(g)
        how, _ = await ask(g, **other)
    assert how == "miss"
    assert len(upstream.received) == 2


async def test_what_is_drawn_by_chance_is_kept_only_for_who_asks():
    upstream = Upstream()
    async with caching(upstream) as g:
        unasked = [(await ask(g, temperature=1))[0] for _ in range(2)]
        asked = [(await ask(g, temperature=1, cache="yes"))[0] for _ in range(2)]
        seeded = [(await ask(g, temperature=1, seed=7))[0] for _ in range(2)]
        declined = (await ask(g, temperature=1, seed=7, cache="no"))[0]
    assert unasked == [None, None]
    assert asked == seeded == ["miss", "hit"]
    assert declined is None


async def test_a_broken_stream_is_not_kept():
    upstream = Upstream(break_at=2)
    async with caching(upstream) as g:
        for _ in range(2):
            with pytest.raises(Exception, match=r"broke|stopped|ended"):
                await text((await ask(g, stream=True))[1])
    assert len(upstream.received) == 2


@pytest.mark.parametrize(("finished", "kept"), [((0,), False), ((0, 1), True)])
async def test_of_several_choices_each_has_to_finish(finished, kept):
    cache = ResponseCache(CacheLimits(10_000, 60.0), ManualClock())
    request = chat("hi", stream=True, n=2, temperature=0)
    place = cache.place(request, {"x-gateway-cache": "yes"})

    async def events():
        for index in (0, 1):
            yield told({"index": index, "delta": {"content": "a"}, "finish_reason": None})
        for index in finished:
            yield told({"index": index, "delta": {}, "finish_reason": "stop"})

    def told(choice):
        return parse_event(encode_json({"choices": [choice]}))

    assert len([e async for e in cache.keeping(place, request, events())]) == 2 + len(finished)
    assert (cache.find(place) is not None) is kept


async def test_it_is_bounded_in_time_and_size():
    clock = ManualClock()
    upstream = Upstream()
    async with caching(upstream, Cache(size=Bytes(6000), models={"m": Seconds(60)})) as g:
        cache = g.gateway.dispatcher.cache
        cache.clock = clock
        await ask(g)
        clock.advance(59)
        assert (await ask(g))[0] == "hit"
        clock.advance(2)
        assert (await ask(g))[0] == "miss"
        for index in range(40):
            await ask(g, text=str(index))
        assert (await ask(g))[0] == "miss", "the oldest went"
        assert (await ask(g, text="39"))[0] == "hit"
        assert cache._size <= 6000
