"""`/v1/messages` over real sockets, with Anthropic's SDK, onto an endpoint of chats."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import AsyncAnthropic

from gateway.config.bind import Secret
from gateway.config.tree import Key
from gateway.domain import Ended, Operation
from gateway.emulator.emulated import emulated
from tests.emulator.test_through_the_gateway import speaking
from tests.line.test_responses import called, calling
from tests.support.gateways import Running, gateway
from tests.support.hosted import Reply, replies, whole
from tests.support.upstream import Upstream, event

pytestmark = pytest.mark.anyio

WEATHER: Any = {
    "name": "weather",
    "description": "The weather somewhere",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
ASKED: Any = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}


@asynccontextmanager
async def asking(g: Running, key: str = "none needed") -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=g.url, api_key=key, max_retries=0) as client:
        yield client


async def test_an_answer_is_a_message() -> None:
    async with gateway(upstream := Upstream()) as g, asking(g) as client:
        message = await client.messages.create(
            **ASKED,
            system="Be short",
            stop_sequences=["."],
            extra_body={"temperature": 0.5, "top_k": 5},
        )
        (outcome,) = await g.settled.wait_for(1)
    assert [block.text for block in message.content if block.type == "text"] == ["Hello there"]
    assert (message.model, message.stop_reason) == ("m", "end_turn")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (8, 3, 3)
    assert (outcome.operation, outcome.ended) == (Operation.CHAT, Ended.FINISHED)
    assert upstream.received[0].path == "/v1/chat/completions"
    assert upstream.received[0].body == {
        "model": "theirs-m",
        "messages": [
            {"role": "system", "content": "Be short"},
            {"role": "user", "content": "Hi"},
        ],
        "max_tokens": 100,
        "stop": ["."],
        "temperature": 0.5,
        "top_k": 5,
    }


async def test_a_stream_has_its_events_in_order_and_ends_as_the_whole_answer() -> None:
    async with gateway(Upstream()) as g, asking(g) as client, httpx.AsyncClient() as plain:
        async with client.messages.stream(**ASKED) as stream:
            final = await stream.get_final_message()
        raw = await plain.post(f"{g.url}/v1/messages", json={**ASKED, "stream": True})
    assert final.content[0].type == "text"
    assert final.content[0].text == "Hello there"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (8, 3)
    names = [line[7:] for line in raw.text.splitlines() if line.startswith("event: ")]
    assert names == [
        "message_start",
        "ping",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_thoughts_and_calls_are_blocks_one_after_the_other() -> None:
    async with gateway(calling()) as g, asking(g) as client:
        events = []
        async with client.messages.stream(**ASKED, tools=[WEATHER]) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "tool_use", "tool_use"]
    assert final.content[0].thinking == "Let me see"
    assert [(block.id, block.input) for block in final.content[1:]] == [
        ("call_a", {"city": "Oslo"}),
        ("call_b", {"city": "Rome"}),
    ]
    assert final.stop_reason == "tool_use"
    places = [(e.type, e.index) for e in events if e.type.startswith("content_block_st")]
    assert places == [
        (f"content_block_{what}", index) for index in range(3) for what in ("start", "stop")
    ]


def named_first() -> Upstream:
    """Names both calls before the arguments of either; the first has none."""
    heads = [
        {"index": n, "id": f"call_{n}", "function": {"name": "weather", "arguments": ""}}
        for n in range(3)
    ]
    return Upstream(
        pieces=("", "", ""),
        extra={
            0: {"delta": {"role": "assistant", "tool_calls": heads}},
            1: called(1, '{"city":'),
            2: called(2, '{"city":"Rome"}'),
            3: called(1, '"Oslo"}'),
            4: {"delta": {}, "finish_reason": "tool_calls"},
        },
    )


async def test_calls_that_are_named_before_their_arguments_come_are_one_block_each() -> None:
    async with (
        gateway(named_first()) as g,
        asking(g) as client,
        client.messages.stream(**ASKED, tools=[WEATHER]) as stream,
    ):
        final = await stream.get_final_message()
    assert [(b.id, b.name, b.input) for b in final.content if b.type == "tool_use"] == [
        ("call_0", "weather", {}),
        ("call_1", "weather", {"city": "Oslo"}),
        ("call_2", "weather", {"city": "Rome"}),
    ]


async def test_a_loop_of_tools() -> None:
    async with (
        emulated("openai") as there,
        gateway(there.url, endpoint=speaking("openai")) as g,
        asking(g) as client,
    ):
        first = await client.messages.create(**ASKED, tools=[WEATHER], tool_choice={"type": "any"})
        (call,) = [block for block in first.content if block.type == "tool_use"]
        result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain"}
        messages: Any = [
            *ASKED["messages"],
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        second = await client.messages.create(**{**ASKED, "messages": messages}, tools=[WEATHER])
    assert first.stop_reason == "tool_use"
    assert set(call.input) == {"city"}
    assert second.content[0].type == "text"


async def test_blocks_have_their_place_in_a_chat() -> None:
    data = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    picture: Any = {"type": "image", "source": data}
    use: Any = {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Oslo"}}
    messages: Any = [
        {"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": ""},
                {"type": "text", "text": "Let me look"},
                use,
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Well?"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "is_error": True,
                    "content": [{"type": "text", "text": "no city"}, picture],
                },
            ],
        },
    ]
    async with gateway(upstream := Upstream()) as g, asking(g) as client:
        await client.messages.create(
            **{**ASKED, "messages": messages},
            tools=[WEATHER],
            tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
            thinking={"type": "enabled", "budget_tokens": 8000},
            metadata={"user_id": "u"},
        )
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = upstream.received[0].body
    function = {"name": "weather", "arguments": '{"city":"Oslo"}'}
    assert body["messages"] == [
        {"role": "user", "content": [url, {"type": "text", "text": "What is it?"}]},
        {
            "role": "assistant",
            "content": "Let me look",
            "reasoning_content": "Hm",
            "tool_calls": [{"id": "t", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "t", "content": "<error>no city</error>"},
        {"role": "user", "content": [{"type": "text", "text": "Well?"}, url]},
    ]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert (body["parallel_tool_calls"], body["reasoning_effort"]) == (False, "medium")
    assert body["user"] == "u"


@pytest.mark.parametrize(
    ("about", "text"),
    [
        ({}, "It rains."),
        ({"title": "Oslo", "context": "A letter"}, "Oslo\n\nA letter\n\nIt rains."),
        ({"title": "Oslo", "context": None, "citations": {"enabled": False}}, "Oslo\n\nIt rains."),
    ],
)
async def test_a_document_is_its_text_after_what_it_says_of_itself(about: Any, text: str) -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "It rains."}
    document = {"type": "document", "source": source, **about}
    messages: Any = [{"role": "user", "content": [document]}]
    async with gateway(upstream := Upstream()) as g, asking(g) as client:
        await client.messages.create(**{**ASKED, "messages": messages})
    assert upstream.received[0].body["messages"] == [{"role": "user", "content": text}]


async def test_what_the_caches_and_the_seals_of_others_need_is_taken() -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    messages: Any = [
        {"role": "user", "content": [{"type": "text", "text": "Hi", **cached}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": "sealed"},
                {"type": "text", "text": "Let me look", "citations": None, **cached},
                {"type": "text", "text": "it says", "citations": [{"type": "char_location"}]},
                {
                    "type": "tool_use",
                    "id": "t",
                    "name": "weather",
                    "input": {},
                    "caller": {"type": "direct"},
                    **cached,
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t", "is_error": False, **cached},
                {"type": "text", "text": "And?", "citations": []},
            ],
        },
    ]
    async with gateway(upstream := Upstream()) as g, asking(g) as client:
        tool: Any = {**WEATHER, "eager_input_streaming": True}
        await client.messages.create(**{**ASKED, "messages": messages}, tools=[tool])
    roles = [message["role"] for message in upstream.received[0].body["messages"]]
    assert roles == ["user", "assistant", "tool", "user"]
    assert "eager_input_streaming" not in upstream.received[0].body["tools"][0]["function"]


async def test_why_it_ended_is_told_in_its_own_words() -> None:
    stopped = Upstream(extra={3: {"finish_reason": "stop", "stop_reason": "END"}})
    async with (
        gateway(stopped) as g,
        asking(g) as client,
        client.messages.stream(**ASKED, stop_sequences=["END"]) as stream,
    ):
        message = await stream.get_final_message()
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")
    async with (
        emulated("openai") as there,
        gateway(there.url, endpoint=speaking("openai")) as g,
        asking(g) as client,
    ):
        short = await client.messages.create(**{**ASKED, "max_tokens": 2})
    assert short.stop_reason == "max_tokens"


def calling_with(arguments: str, **end: str) -> Upstream:
    """Whole answers of one call."""
    function = {"name": "weather", "arguments": arguments}
    calls = [{"id": "c", "type": "function", "function": function}]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    return replies(Reply(body=whole(choices=[{"index": 0, "message": message, **end}])))


async def test_a_call_with_what_is_no_json_is_the_endpoints_fault() -> None:
    async with gateway(calling_with("{", finish_reason="tool_calls")) as g, asking(g) as client:
        with pytest.raises(anthropic.InternalServerError, match="no JSON object"):
            await client.messages.create(**ASKED, tools=[WEATHER])


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ({"finish_reason": "length"}, "max_tokens"),
        ({"finish_reason": "content_filter"}, "refusal"),
        ({"finish_reason": "stop"}, "end_turn"),
        ({"finish_reason": "tool_calls", "stop_reason": "END"}, "stop_sequence"),
    ],
)
@pytest.mark.parametrize(
    ("arguments", "read"), [('{"city": "Os', {}), ('{"city": "Oslo"}', {"city": "Oslo"})]
)
async def test_a_call_that_was_cut_has_no_input(
    arguments: str, read: dict[str, str], end: dict[str, str], reason: str
) -> None:
    async with gateway(calling_with(arguments, **end)) as g, asking(g) as client:
        message = await client.messages.create(**ASKED, tools=[WEATHER], stop_sequences=["END"])
    (block,) = message.content
    assert block.type == "tool_use"
    assert (block.name, block.input, message.stop_reason) == ("weather", read, reason)


@pytest.mark.parametrize(
    "call", [7, {"function": 7}, {"function": {"arguments": {"city": "Oslo"}}}]
)
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", ["messages", "responses"])
async def test_a_call_that_makes_no_sense_is_the_endpoints_fault(
    path: str, streamed: bool, call: object
) -> None:
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "finish_reason": "tool_calls"}
    answer = Reply(body=whole(choices=[{**choice, "message": said}]))
    if streamed:
        piece = event({"id": "a-1", "choices": [{**choice, "delta": said}]})
        answer = Reply(pieces=(piece,), headers={"content-type": "text/event-stream"})
    asked = {**ASKED, "stream": streamed} if path == "messages" else RESPONSE | {"stream": streamed}
    async with gateway(replies(answer)) as g, httpx.AsyncClient(base_url=g.url) as client:
        told = await client.post(f"/v1/{path}", json=asked)
        (outcome,) = await g.settled.wait_for(1)
    assert "makes no sense" in told.text
    assert outcome.error == "upstream_broken"


RESPONSE = {"model": "m", "input": "Hi"}


async def test_an_answer_is_begun_for_its_caller() -> None:
    messages: Any = [*ASKED["messages"], {"role": "assistant", "content": "The answer is"}]
    async with gateway(upstream := Upstream()) as g, asking(g) as client:
        await client.messages.create(**{**ASKED, "messages": messages})
    assert upstream.received[0].body["continue_final_message"] is True


async def test_tokens_are_counted_without_an_answer() -> None:
    async with gateway(upstream := Upstream()) as g, asking(g) as client:
        count = await client.messages.count_tokens(model="m", messages=ASKED["messages"])
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.count_tokens(model="none", messages=ASKED["messages"])
    assert count.input_tokens > 0
    assert not upstream.received


async def test_a_key_may_come_as_anthropics_sdk_sends_it() -> None:
    key = Key("app", Secret("a-good-key"))
    async with gateway(Upstream(), keys=(key,)) as g:
        async with asking(g, "a-good-key") as client:
            assert await client.messages.create(**ASKED)
        async with asking(g, "another-key") as client:
            with pytest.raises(anthropic.AuthenticationError) as refused:
                await client.messages.create(**ASKED)
    assert refused.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
    ],
)
async def test_errors_are_anthropics(status: int, error: type[Exception]) -> None:
    async with gateway(Upstream(status=status)) as g, asking(g) as client:
        with pytest.raises(error):
            await client.messages.create(**ASKED)


async def test_anthropics_sdk_finds_the_requests_name() -> None:
    async with gateway(Upstream()) as g, asking(g) as client, httpx.AsyncClient() as plain:
        message = await client.messages.create(**ASKED, extra_headers={"x-request-id": "r-1"})
        async with client.messages.stream(**ASKED, extra_headers={"x-request-id": "r-2"}) as stream:
            named = stream.request_id
        counted = await client.messages.with_raw_response.count_tokens(
            model="m", messages=ASKED["messages"], extra_headers={"x-request-id": "r-3"}
        )
        chat = await plain.post(f"{g.url}/v1/chat/completions", json={})
    assert (message._request_id, named, counted.headers["request-id"]) == ("r-1", "r-2", "r-3")
    assert "request-id" not in chat.headers


@pytest.mark.parametrize("path", ["messages", "messages/count_tokens"])
async def test_an_error_names_its_request(path: str) -> None:
    key = Key("app", Secret("a-good-key"))
    async with gateway(Upstream(), keys=(key,)) as g, httpx.AsyncClient(base_url=g.url) as client:
        for sent in ({}, {"x-api-key": "a-good-key"}):
            answer = await client.post(f"/v1/{path}", json={"model": "m"}, headers=sent)
            assert answer.is_error
            assert answer.json()["request_id"] == answer.headers["request-id"]


async def test_a_stream_that_breaks_off_raises_the_sdks_error() -> None:
    async with gateway(Upstream(break_at=2), Upstream(status=500)) as g, asking(g) as client:
        with pytest.raises(anthropic.APIStatusError, match=r"middle|broke"):
            async with client.messages.stream(**ASKED) as stream:
                await stream.get_final_message()
        (outcome,) = await g.settled.wait_for(1)
    assert outcome.ended is Ended.FAILED


LETTER = {"type": "text", "media_type": "text/plain", "data": "It rains."}
PICTURE = {"type": "base64", "media_type": "image/png", "data": "AAAA"}


def saying(kind: str = "text", **block: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": kind, **block}]}]}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"context_management": {}}, "context_management"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
        ({"tools": [WEATHER], "tool_choice": {"type": "some"}}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "weather"}}, "tool_choice"),
        ({"tool_choice": {"type": "nonsense"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "f"}}, "tool_choice"),
        ({"thinking": {"type": "deep"}}, "thinking"),
        ({"thinking": {"type": "adaptive", "depth": 9}}, "thinking.depth"),
        ({"output_config": {"tone": "warm"}}, "output_config.tone"),
        ({"tools": [{**WEATHER, "owner": "me"}]}, "tools.0.owner"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": ""}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": "", "name": "me"}]}, "messages.0.name"),
        (saying(text="Hi", bogus=1), "messages.0.content.0.bogus"),
        (saying("document", source=LETTER, title=7), "messages.0.content.0.title"),
        (
            saying("document", source=LETTER, citations={"enabled": True}),
            "messages.0.content.0.citations",
        ),
        (saying("document", source=LETTER | {"pages": 2}), "messages.0.content.0.source.pages"),
        (
            saying("image", source=PICTURE, transformations={"crop": 1}),
            "messages.0.content.0.transformations",
        ),
        (saying("tool_result", tool_use_id="t", took_s=3), "messages.0.content.0.took_s"),
        (
            saying("tool_result", tool_use_id="t", content=[{"type": "text", "text": "", "x": 1}]),
            "messages.0.content.0.content.0.x",
        ),
        ({"system": [{"type": "text", "text": "", "bogus": 1}]}, "system.0.bogus"),
        ({"n": 2}, "'n'"),
        ({"priority": 1}, "'priority'"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_its_name(
    fields: dict[str, Any], named: str
) -> None:
    async with gateway(upstream := Upstream()) as g, httpx.AsyncClient() as client:
        answer = await client.post(f"{g.url}/v1/messages", json={**ASKED, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert named in answer.json()["error"]["message"]
    assert not upstream.received
