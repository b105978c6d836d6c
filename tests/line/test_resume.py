"""A stream that breaks off goes on elsewhere, and its client sees one answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from gateway.config.bind import Seconds, Secret
from gateway.config.tree import EndpointTimeouts
from gateway.rules import always
from routing_policies.build import build_policy
from routing_policies.catalog import Catalog
from tests.support.gateways import Running, gateway
from tests.support.upstream import HELLO, Upstream, event

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
REPLICA: dict[str, Any] = {"dialect": "replica", "secret": Secret("s3cret")}

pytestmark = pytest.mark.anyio

BREAKS: dict[str, dict[str, Any]] = {
    "cut": {"break_at": 2},
    "ended tidily": {"stop_at": 2},
    "not JSON": {"raw_at": {2: b"data: {oops\n\n"}},
    "an error": {"raw_at": {2: event({"error": {"message": "sk-upstream"}})}},
    "no answer": {"raw_at": {2: b"data: 7\n\n"}},
    "a piece that is no piece": {"raw_at": {2: event({"choices": [{"delta": "x"}]})}},
    "a text that is no text": {"raw_at": {2: event({"choices": [{"delta": {"content": 7}}]})}},
    "cut before the finish reason": {"break_at": 3},
}


async def raw_stream(g: Running, **fields: Any) -> list[str]:
    """Each event's data."""
    async with httpx.AsyncClient() as client:
        answer = await client.post(
            f"{g.url}/v1/chat/completions", json={**ASK, "stream": True, **fields}
        )
    return [line.removeprefix("data: ") for line in answer.text.splitlines() if line]


@pytest.mark.parametrize("kind", BREAKS)
async def test_the_client_sees_one_stream(kind: str) -> None:
    first, second = Upstream(**BREAKS[kind]), Upstream()
    async with gateway(first, second, endpoint=REPLICA) as g:
        *raw, done = await raw_stream(g, stream_options={"include_usage": True})
        (outcome,) = await g.settled.wait_for(1)
        assert g.in_flight() == {"u0": 0, "u1": 0}
    *chunks, usage = map(json.loads, raw)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert done == "[DONE]"
    assert "".join(c["delta"].get("content", "") for c in choices) == "".join(HELLO)
    assert [c["delta"]["role"] for c in choices if "role" in c["delta"]] == ["assistant"]
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert not any("token_ids" in c for c in choices)
    assert usage["usage"]["completion_tokens"] == 3
    assert [a.resumed for a in outcome.attempts] == [False, True]
    assert [a.delivered_tokens for a in outcome.attempts] in ([2, 1], [3, 0])
    given = first.received[0].body, second.received[0].body
    assert "continue_token_ids" not in given[0]
    assert given[1].pop("continue_token_ids") == list(range(outcome.attempts[0].delivered_tokens))
    assert given[0] == given[1]


async def test_a_stream_that_falls_silent_is_taken_up_too() -> None:
    impatient = EndpointTimeouts(between_events=Seconds(0.2))
    first, second = Upstream(hold_at=2), Upstream()
    async with gateway(first, second, endpoint={**REPLICA, "timeouts": impatient}) as g:
        assert (await raw_stream(g))[-1] == "[DONE]"
        (outcome,) = await g.settled.wait_for(1)
        await asyncio.wait_for(first.hung_up.wait(), 10)
    assert [a.error for a in outcome.attempts] == ["upstream_timeout", None]


async def test_what_each_attempt_is_billed_is_not_what_the_client_is_told() -> None:
    async with gateway(Upstream(break_at=2), Upstream(), endpoint=REPLICA) as g:
        await raw_stream(g)
        (outcome,) = await g.settled.wait_for(1)
    assert outcome.usage is not None
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (11, 3)
    broken, resumed = (a.billed for a in outcome.attempts)
    assert broken is None, "it did not tell"
    assert resumed is not None
    # The two tokens that the client had were a prompt to it.
    assert (resumed.prompt_tokens, resumed.completion_tokens) == (13, 1)


async def test_the_sdk_iterates_to_the_end() -> None:
    async with gateway(Upstream(break_at=1), Upstream(), endpoint=REPLICA) as g:
        stream = await g.sdk.chat.completions.create(**ASK, stream=True)
        assert [c.choices[0].delta.content async for c in stream] == [*HELLO, None]


async def test_a_stream_that_breaks_twice_is_taken_up_twice() -> None:
    three = Upstream(break_at=1), Upstream(break_at=2), Upstream()
    async with gateway(*three, endpoint=REPLICA) as g:
        raw = await raw_stream(g)
        (outcome,) = await g.settled.wait_for(1)
    assert raw[-1] == "[DONE]"
    assert [u.received[0].body.get("continue_token_ids") for u in three] == [None, [0], [0, 1]]
    assert [a.error for a in outcome.attempts] == ["upstream_broken", "upstream_broken", None]


async def test_the_only_endpoint_is_asked_again_when_it_is_back() -> None:
    upstream = Upstream(break_at=2, recovers_after=1)
    async with gateway(upstream, endpoint=REPLICA) as g:
        raw = await raw_stream(g)
    assert raw[-1] == "[DONE]"
    assert upstream.received[1].body["continue_token_ids"] == [0, 1]


async def test_a_stream_of_which_nothing_could_be_seen_begins_anew_anywhere() -> None:
    """Also at endpoints that cannot go on: only the role was sent, and is not sent again."""
    role = event(
        {"id": "x", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    )
    first, second = Upstream(raw_at={0: role}, break_at=0), Upstream()
    async with gateway(first, second) as g:
        *raw, done = await raw_stream(g)
    deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in raw]
    assert done == "[DONE]"
    assert sum("role" in delta for delta in deltas) == 1
    assert "".join(delta.get("content", "") for delta in deltas) == "".join(HELLO)


async def test_a_break_after_the_finish_reason_costs_nothing() -> None:
    upstream = Upstream(raw_at={}, done=False, break_at_end=True)
    async with gateway(upstream) as g:
        assert (await raw_stream(g))[-1] == "[DONE]"


async def test_a_resume_is_no_retry_that_a_budget_counts() -> None:
    async with gateway(Upstream(break_at=2), Upstream(), endpoint=REPLICA) as g:
        g.gateway.dispatcher.retries.share = g.gateway.dispatcher.retries.least = 0
        assert (await raw_stream(g))[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("asked", "extra"),
    [
        ({"n": 2}, {}),
        ({"logprobs": True}, {}),
        ({}, {1: {"index": 1}}),
        ({}, {1: {"logprobs": {"content": [{"token": "lo", "logprob": -1.0}]}}}),
    ],
)
async def test_what_cannot_be_taken_up_ends_in_an_error_that_the_sdk_raises(
    asked: dict[str, Any], extra: dict[int, dict[str, Any]]
) -> None:
    first, second = Upstream(break_at=2, extra=extra), Upstream()
    async with gateway(first, second, endpoint=REPLICA) as g:
        stream = await g.sdk.chat.completions.create(**ASK, stream=True, **asked)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
        raw = await raw_stream(g, **asked)
    assert caught.value.code == "upstream_broken"
    assert second.received == []
    assert "[DONE]" not in raw
    assert set(json.loads(raw[-1])["error"]) == {"message", "type", "param", "code"}


async def test_a_call_of_a_tool_is_taken_up_by_a_replica() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}
    first, second = Upstream(break_at=2, extra={1: {"delta": {"tool_calls": [call]}}}), Upstream()
    async with gateway(first, second, endpoint=REPLICA) as g:
        raw = await raw_stream(g)
    assert raw[-1] == "[DONE]"
    told = [json.loads(event) for event in raw[:-1]]
    deltas = [choice["delta"] for event in told for choice in event["choices"]]
    assert [delta["tool_calls"] for delta in deltas if "tool_calls" in delta] == [[call]]
    assert len(second.received[0].body["continue_token_ids"]) > 0


async def test_endpoints_that_cannot_go_on_are_not_asked_to() -> None:
    second = Upstream()
    async with gateway(Upstream(break_at=2), second) as g:
        raw = await raw_stream(g)
    assert "[DONE]" not in raw
    assert second.received == []


async def test_a_policy_can_forbid_it() -> None:
    spec = {"minimize": {"in_flight": 1}, "pick": "lowest", "fallback": {"resume": False}}
    rules = always(build_policy("mine", spec, Catalog.load()))
    async with gateway(Upstream(break_at=2), Upstream(), rules=rules, endpoint=REPLICA) as g:
        assert "[DONE]" not in await raw_stream(g)


async def test_who_refuses_to_take_it_up_does_not_make_it_the_clients_fault() -> None:
    refusal = {"error": {"message": "no such field", "code": "invalid", "param": "x"}}
    first, second = Upstream(break_at=2), Upstream(status=400, error=refusal)
    async with gateway(first, second, endpoint=REPLICA) as g:
        raw = await raw_stream(g)
    assert json.loads(raw[-1])["error"]["code"] == "upstream_broken"
