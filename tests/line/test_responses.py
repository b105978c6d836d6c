"""`/v1/responses` over real sockets, with OpenAI's SDK, onto an endpoint that knows chats only."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from gateway.config.bind import Secret
from gateway.config.tree import Key, StoredResponses
from gateway.domain import Ended, Operation
from gateway.emulator.emulated import emulated
from gateway.front.kept import Kept
from tests.emulator.test_through_the_gateway import speaking
from tests.support.gateways import Running, gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather somewhere",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


def called(index: int, arguments: str, **first: Any) -> dict[str, Any]:
    name = {"name": first.pop("name")} if "name" in first else {}
    call = {"index": index, "function": {**name, "arguments": arguments}, **first}
    return {"delta": {"tool_calls": [call]}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "name": name} for name in names]
    return {"type": "allowed_tools", "mode": mode, "tools": tools}


def calling() -> Upstream:
    """Thinks, then calls two functions, the second while the first is still being told."""
    return Upstream(
        pieces=("", "", "", "", ""),
        extra={
            0: {"delta": {"role": "assistant", "reasoning_content": "Let me"}},
            1: {"delta": {"reasoning_content": " see"}},
            2: called(0, '{"city":', id="call_a", name="weather"),
            3: called(1, '{"city":"Rome"}', id="call_b", name="weather"),
            4: called(0, '"Oslo"}'),
            5: {"delta": {}, "finish_reason": "tool_calls"},
        },
    )


async def types_of(stream: Any) -> list[str]:
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return [event.type for event in events]


async def test_an_answer_is_a_response() -> None:
    async with gateway(upstream := Upstream()) as g:
        response = await g.sdk.responses.create(
            model="m", input="Hi", instructions="Be short", metadata={"a": "b"}
        )
    assert (response.output_text, response.status) == ("Hello there", "completed")
    assert (response.model, response.metadata, response.store) == ("m", {"a": "b"}, True)
    usage = response.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (11, 3, 14)
    assert usage.input_tokens_details.cached_tokens == 3
    assert upstream.received[0].path == "/v1/chat/completions"
    assert upstream.received[0].body == {
        "model": "theirs-m",
        "messages": [
            {"role": "system", "content": "Be short"},
            {"role": "user", "content": "Hi"},
        ],
    }


async def test_a_stream_has_its_events_in_order_and_ends_as_the_whole_answer() -> None:
    async with gateway(Upstream()) as g:
        async with g.sdk.responses.stream(model="m", input="Hi") as stream:
            types = await types_of(stream)
            final = await stream.get_final_response()
        kept = await g.sdk.responses.retrieve(final.id)
        (outcome,) = await g.settled.wait_for(1)
    assert types == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert final.output_text == kept.output_text == "Hello there"
    assert kept.usage == final.usage
    assert (outcome.operation, outcome.ended) == (Operation.CHAT, Ended.FINISHED)
    assert outcome.usage is not None


async def test_thoughts_and_calls_are_items_of_their_own() -> None:
    async with gateway(calling()) as g:
        stream = await g.sdk.responses.create(model="m", input="Hi", tools=[WEATHER], stream=True)
        events = [event async for event in stream]
    final: Response = events[-1].response
    assert [item.type for item in final.output] == ["reasoning", "function_call", "function_call"]
    assert final.output[0].content[0].text == "Let me see"
    assert [(item.call_id, item.arguments) for item in final.output[1:]] == [
        ("call_a", '{"city":"Oslo"}'),
        ("call_b", '{"city":"Rome"}'),
    ]
    assert [e.item for e in events if e.type == "response.output_item.done"] == final.output
    told = "".join(e.delta for e in events if e.type == "response.reasoning_text.delta")
    assert told == "Let me see"
    deltas = [e for e in events if e.type == "response.function_call_arguments.delta"]
    assert [(e.output_index, e.delta) for e in deltas] == [
        (1, '{"city":'),
        (2, '{"city":"Rome"}'),
        (1, '"Oslo"}'),
    ]


async def test_thoughts_are_a_summary_where_one_is_asked_for() -> None:
    async with gateway(calling()) as g:
        stream = await g.sdk.responses.create(
            model="m", input="Hi", reasoning={"effort": "low", "summary": "auto"}, stream=True
        )
        events = [event async for event in stream]
    assert events[-1].response.output[0].summary[0].text == "Let me see"
    types = [event.type for event in events]
    assert types[2:8] == [
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
    ]


async def test_a_loop_of_tools_goes_on_from_the_response_before() -> None:
    async with emulated("openai") as there, gateway(there.url, endpoint=speaking("openai")) as g:
        first = await g.sdk.responses.create(
            model="m", input="Weather?", tools=[WEATHER], tool_choice="required"
        )
        (call,) = [item for item in first.output if item.type == "function_call"]
        assert set(json.loads(call.arguments)) == {"city"}
        second = await g.sdk.responses.create(
            model="m",
            previous_response_id=first.id,
            input=[{"type": "function_call_output", "call_id": call.call_id, "output": "Rain"}],
            tools=[WEATHER],
        )
        items = await g.sdk.responses.input_items.list(second.id, order="asc")
    assert second.output_text
    assert second.previous_response_id == first.id
    assert [item.type for item in items.data] == [
        "message",
        "function_call",
        "function_call_output",
    ]


async def test_what_was_said_before_goes_to_the_endpoint_as_a_chat() -> None:
    async with gateway(first := calling(), models=("m",)) as g:
        response = await g.sdk.responses.create(model="m", input="Hi", tools=[WEATHER], stream=True)
        final = [event async for event in response][-1].response
        output = [
            {"type": "function_call_output", "call_id": id, "output": text}
            for id, text in (("call_a", "Rain"), ("call_b", "Sun"))
        ]
        await g.sdk.responses.create(
            model="m", previous_response_id=final.id, input=output, stream=True
        )
        await g.settled.wait_for(1)
        messages = first.received[1].body["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[1]["reasoning_content"] == "Let me see"
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["call_a", "call_b"]
    assert messages[2] == {"role": "tool", "tool_call_id": "call_a", "content": "Rain"}


async def test_an_item_may_be_named_by_its_id() -> None:
    async with gateway(upstream := Upstream()) as g:
        first = await g.sdk.responses.create(model="m", input="Hi")
        reference: Any = {"type": "item_reference", "id": first.output[0].id}
        await g.sdk.responses.create(
            model="m", input=[reference, {"role": "user", "content": "And?"}]
        )
        with pytest.raises(openai.BadRequestError, match="no stored item"):
            await g.sdk.responses.create(
                model="m", input=[{"type": "item_reference", "id": "msg_123456789"}]
            )
    assert upstream.received[1].body["messages"] == [
        {"role": "assistant", "content": "Hello there"},
        {"role": "user", "content": "And?"},
    ]


async def test_a_response_is_read_once_however_many_of_its_items_are_named() -> None:
    async with gateway(upstream := Upstream()) as g:
        first = await g.sdk.responses.create(model="m", input="Hi")
        reads, store = list[str](), g.gateway.responses.store
        get = store.get

        async def noted(tenant: str, id: str) -> Kept | None:
            reads.append(id)
            return await get(tenant, id)

        store.get = noted  # type: ignore[method-assign]
        item: Any = {"type": "item_reference", "id": first.output[0].id}
        await g.sdk.responses.create(model="m", input=[item] * 50)
    assert reads == [first.id]
    said = [message["content"] for message in upstream.received[1].body["messages"]]
    assert said == ["Hello there"] * 50


async def test_json_is_parsed_by_its_schema() -> None:
    class City(BaseModel):
        name: str
        people: int

    async with emulated("openai") as there, gateway(there.url, endpoint=speaking("openai")) as g:
        parsed = await g.sdk.responses.parse(model="m", input="A city", text_format=City)
    assert isinstance(parsed.output_parsed, City)


async def test_an_answer_cut_short_says_why() -> None:
    async with emulated("openai") as there, gateway(there.url, endpoint=speaking("openai")) as g:
        response = await g.sdk.responses.create(model="m", input="Hi", max_output_tokens=2)
        stream = await g.sdk.responses.create(
            model="m", input="Hi", max_output_tokens=2, stream=True
        )
        last = [event async for event in stream][-1]
    assert (response.status, response.output[0].status) == ("incomplete", "incomplete")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert last.type == "response.incomplete"


async def test_what_is_not_stored_is_not_there() -> None:
    async with gateway(Upstream()) as g:
        response = await g.sdk.responses.create(model="m", input="Hi", store=False)
        with pytest.raises(openai.NotFoundError):
            await g.sdk.responses.retrieve(response.id)
        with pytest.raises(openai.BadRequestError) as refused:
            await g.sdk.responses.create(model="m", input="Hi", previous_response_id=response.id)
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"


async def test_what_is_deleted_is_gone() -> None:
    async with gateway(Upstream()) as g:
        response = await g.sdk.responses.create(model="m", input="Hi")
        await g.sdk.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            await g.sdk.responses.retrieve(response.id)


async def until_done(g: Running, id: str) -> Response:
    async with asyncio.timeout(30):
        while True:
            response = await g.sdk.responses.retrieve(id)
            if response.status not in ("queued", "in_progress"):
                return response
            await asyncio.sleep(0.01)


async def test_one_in_the_background_is_there_later() -> None:
    async with gateway(upstream := Upstream(hold_at=0)) as g:
        queued = await g.sdk.responses.create(model="m", input="Hi", background=True)
        assert (queued.status, queued.output) == ("queued", [])
        assert (await g.sdk.responses.retrieve(queued.id)).status == "in_progress"
        upstream.release.set()
        done = await until_done(g, queued.id)
        (outcome,) = await g.settled.wait_for(1)
    assert (done.status, done.output_text) == ("completed", "Hello there")
    assert outcome.ended is Ended.FINISHED


async def test_one_in_the_background_fails_where_it_is_looked_for() -> None:
    async with gateway(Upstream(status=400, error={"error": {"message": "no such thing"}})) as g:
        queued = await g.sdk.responses.create(model="m", input="Hi", background=True)
        done = await until_done(g, queued.id)
    assert done.status == "failed"
    assert done.error is not None
    assert "no such thing" in done.error.message


async def test_one_in_the_background_is_cancelled_and_frees_its_endpoint() -> None:
    async with gateway(upstream := Upstream(hold_at=0)) as g:
        queued = await g.sdk.responses.create(model="m", input="Hi", background=True)
        await upstream.asked.wait()
        cancelled = await g.sdk.responses.cancel(queued.id)
        async with asyncio.timeout(30):
            await upstream.hung_up.wait()
        (outcome,) = await g.settled.wait_for(1)
        assert (await g.sdk.responses.retrieve(queued.id)).status == "cancelled"
    assert cancelled.status == "cancelled"
    assert outcome.ended is Ended.HUNG_UP


async def test_only_one_in_the_background_can_be_cancelled() -> None:
    async with gateway(Upstream()) as g:
        response = await g.sdk.responses.create(model="m", input="Hi")
        with pytest.raises(openai.BadRequestError, match="background"):
            await g.sdk.responses.cancel(response.id)


async def test_a_stream_that_breaks_off_fails_in_its_own_shape() -> None:
    async with gateway(Upstream(break_at=2), Upstream(status=500)) as g:
        stream = await g.sdk.responses.create(model="m", input="Hi", stream=True)
        events = [event async for event in stream]
        kept = await g.sdk.responses.retrieve(events[0].response.id)
        (outcome,) = await g.settled.wait_for(1)
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "upstream_broken"
    assert events[-1].response.output[0].content[0].text == "Hello"
    assert (kept.status, outcome.ended) == ("failed", Ended.FAILED)


async def test_its_stream_is_taken_up_by_another_endpoint() -> None:
    async with (
        emulated("vllm", script="rules: [{stream: true, fault: {reset: 3}}]") as first,
        emulated("vllm") as second,
        gateway(first.url, second.url, endpoint=speaking("vllm")) as g,
    ):
        whole = await g.sdk.responses.create(model="m", input="Hi")
        async with g.sdk.responses.stream(model="m", input="Hi") as stream:
            final = await stream.get_final_response()
        outcomes = await g.settled.wait_for(2)
    assert final.output_text == whole.output_text
    assert len(outcomes[1].attempts) == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f", "owner": "me"}]}, "tools[0].owner"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "loose": 1}}},
            "text.format.loose",
        ),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "weather"}}, "tool_choice"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "f"}},
            "tool_choice",
        ),
        ({"tools": [WEATHER], "tool_choice": allowed("required")}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": allowed("auto", "weather", "f")}, "tool_choice"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a" * 65: ""}}, "metadata"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "low", "max_tokens": 9}}, "reasoning.max_tokens"),
        ({"text": {"format": {"type": "text"}, "tone": "warm"}}, "text.tone"),
        (
            {"stream": True, "stream_options": {"include_usage": True}},
            "stream_options.include_usage",
        ),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"background": True, "stream": True}, "stream"),
        ({"background": True, "store": False}, "store"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 2**31}, "max_output_tokens"),
        ({"input": []}, "input"),
        ({"input": [{"type": "web_search_call", "id": "w"}]}, "input[0].type"),
        ({"input": [{"role": "nobody", "content": ""}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "x"}]}]}, "input[0].content[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0]",
        ),
        (
            {"input": [{"type": "reasoning", "encrypted_content": "x"}]},
            "input[0].encrypted_content",
        ),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"instructions": 3}, "instructions"),
        ({"priority": 3}, "priority"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_its_name(
    fields: dict[str, Any], param: str
) -> None:
    async with gateway(upstream := Upstream()) as g, httpx.AsyncClient() as client:
        body = {"model": "m", "input": "Hi", **fields}
        answer = await client.post(f"{g.url}/v1/responses", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not upstream.received


async def test_pictures_and_the_rest_of_a_request_have_their_place_in_a_chat() -> None:
    picture = "data:image/png;base64,AAAA"
    parts: Any = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": picture, "detail": "low"},
    ]
    async with gateway(upstream := Upstream()) as g:
        await g.sdk.responses.create(
            model="m",
            input=[{"role": "user", "content": parts}],
            reasoning={"effort": "high"},
            text={"format": {"type": "json_object"}, "verbosity": "low"},
            tools=[WEATHER, {**WEATHER, "name": "other"}],
            tool_choice={
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "other"}],
            },
            max_output_tokens=7,
            temperature=0.5,
            parallel_tool_calls=False,
            extra_body={"top_k": 5},
        )
    body = upstream.received[0].body
    assert body.pop("messages")[0]["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": picture, "detail": "low"}},
    ]
    (tool,) = body.pop("tools")
    assert tool["function"]["name"] == "other"
    assert body == {
        "model": "theirs-m",
        "reasoning_effort": "high",
        "response_format": {"type": "json_object"},
        "verbosity": "low",
        "tool_choice": "required",
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "parallel_tool_calls": False,
        "top_k": 5,
    }


async def test_tokens_of_an_input_are_counted_without_an_answer() -> None:
    async with gateway(upstream := Upstream()) as g:
        short = await g.sdk.responses.input_tokens.count(model="m", input="Hi")
        long = await g.sdk.responses.input_tokens.count(model="m", input="Hi " * 1000)
        with pytest.raises(openai.NotFoundError):
            await g.sdk.responses.input_tokens.count(model="none", input="Hi")
    assert 0 < short.input_tokens < long.input_tokens
    assert not upstream.received


async def test_items_come_page_by_page() -> None:
    async with gateway(Upstream()) as g:
        given: Any = [{"role": "user", "content": str(n)} for n in range(5)]
        response = await g.sdk.responses.create(model="m", input=given)
        texts = [
            item.content[0].text
            async for item in g.sdk.responses.input_items.list(response.id, limit=2)
        ]
        with pytest.raises(openai.BadRequestError, match="limit"):
            await g.sdk.responses.input_items.list(response.id, limit=0)
    assert texts == ["4", "3", "2", "1", "0"]


def stored_in(folder: Path) -> StoredResponses:
    return StoredResponses(folder / "responses.sqlite")


async def test_another_gateway_on_the_same_file_knows_and_cancels_it(tmp_path: Path) -> None:
    async with (
        gateway(upstream := Upstream(hold_at=0), responses=stored_in(tmp_path)) as first,
        gateway(Upstream(), responses=stored_in(tmp_path)) as second,
    ):
        queued = await first.sdk.responses.create(model="m", input="Hi", background=True)
        await upstream.asked.wait()
        assert (await second.sdk.responses.cancel(queued.id)).status == "cancelled"
        async with asyncio.timeout(30):
            await upstream.hung_up.wait()
        (outcome,) = await first.settled.wait_for(1)
        assert (await first.sdk.responses.retrieve(queued.id)).status == "cancelled"
    assert outcome.ended is Ended.HUNG_UP


@pytest.mark.parametrize("withdrawn", ["deleted", "cancelled"])
async def test_what_another_gateway_withdrew_is_not_stored_again(
    tmp_path: Path, withdrawn: str
) -> None:
    async with (
        gateway(upstream := Upstream(hold_at=0), responses=stored_in(tmp_path)) as first,
        gateway(Upstream(), responses=stored_in(tmp_path)) as second,
    ):
        queued = await first.sdk.responses.create(model="m", input="Hi", background=True)
        await upstream.asked.wait()
        ours = second.sdk.responses
        await (ours.delete if withdrawn == "deleted" else ours.cancel)(queued.id)
        upstream.release.set()  # before it has been heard of
        await first.settled.wait_for(1)
        async with httpx.AsyncClient(base_url=second.url) as client:
            found = await client.get(f"/v1/responses/{queued.id}")
    assert (found.status_code, found.json().get("status")) == {
        "deleted": (404, None),
        "cancelled": (200, "cancelled"),
    }[withdrawn]


async def test_a_conversation_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with gateway(Upstream(), responses=stored_in(tmp_path)) as g:
        first = await g.sdk.responses.create(model="m", input="Hi")
    async with gateway(upstream := Upstream(), responses=stored_in(tmp_path)) as g:
        await g.sdk.responses.create(model="m", input="And?", previous_response_id=first.id)
    contents = [message["content"] for message in upstream.received[0].body["messages"]]
    assert contents == ["Hi", "Hello there", "And?"]


async def test_one_in_the_background_that_a_shutdown_ends_has_failed(tmp_path: Path) -> None:
    upstream = Upstream(hold_at=0)
    async with gateway(upstream, responses=stored_in(tmp_path), drain_s=0.1) as g:
        queued = await g.sdk.responses.create(model="m", input="Hi", background=True)
        await upstream.asked.wait()
    async with gateway(Upstream(), responses=stored_in(tmp_path)) as g:
        found = await g.sdk.responses.retrieve(queued.id)
    assert found.status == "failed"
    assert found.error is not None
    assert found.error.code == "unavailable"


async def test_while_the_store_is_broken_answers_are_given_and_what_needs_it_is_refused(
    tmp_path: Path,
) -> None:
    async with gateway(Upstream(), responses=stored_in(tmp_path)) as g:
        (tmp_path / "responses.sqlite").write_text("no database, and longer than a header is" * 9)
        response = await g.sdk.responses.create(model="m", input="Hi")
        for asks in (
            g.sdk.responses.retrieve(response.id),
            g.sdk.responses.create(model="m", input="Hi", previous_response_id=response.id),
            g.sdk.responses.create(model="m", input="Hi", background=True),
        ):
            with pytest.raises(openai.InternalServerError) as refused:
                await asks
            assert refused.value.code == "unavailable"
    assert response.output_text == "Hello there"


async def test_what_a_tenant_stored_is_not_there_for_another() -> None:
    keys = tuple(Key(name, Secret(f"key-of-{name}"), tenant=name) for name in ("ann", "bob"))
    async with gateway(Upstream(), keys=keys, api_key="key-of-ann") as g:
        response = await g.sdk.responses.create(model="m", input="Hi")
        bob = g.sdk.with_options(api_key="key-of-bob")
        item: Any = {"type": "item_reference", "id": response.output[0].id}
        with pytest.raises(openai.NotFoundError):
            await bob.responses.retrieve(response.id)
        with pytest.raises(openai.NotFoundError):
            await bob.responses.delete(response.id)
        with pytest.raises(openai.BadRequestError):
            await bob.responses.create(model="m", input="Hi", previous_response_id=response.id)
        with pytest.raises(openai.BadRequestError):
            await bob.responses.create(model="m", input=[item])
        assert await g.sdk.responses.retrieve(response.id)


async def test_what_only_an_escape_can_carry_is_answered_stored_and_shown() -> None:
    half: Any = "half of a pair: \ud83d"
    tool = {"type": "function", "name": "f", "parameters": {"maximum": 2**70}}
    body = {"model": "m", "input": half, "metadata": {"note": half}, "tools": [tool]}
    async with gateway(Upstream()) as g, httpx.AsyncClient(base_url=g.url) as client:
        made = await client.post("/v1/responses", content=json.dumps(body))
        kept = await client.get(f"/v1/responses/{made.json()['id']}")
        items = await client.get(f"/v1/responses/{made.json()['id']}/input_items")
    assert (made.status_code, kept.status_code, items.status_code) == (200, 200, 200)
    assert kept.json() == made.json()
    assert kept.json()["metadata"] == {"note": half}
    assert kept.json()["tools"][0]["parameters"] == tool["parameters"]
    assert items.json()["data"][0]["content"][0]["text"] == half


@pytest.mark.parametrize(
    "asked",
    [
        {"input": "Hi", "previous_response_id": "resp_\ud83d"},
        {"input": [{"type": "item_reference", "id": "msg_\ud83d0000"}]},
    ],
)
async def test_an_id_that_nobody_can_have_is_not_there(asked: dict[str, Any]) -> None:
    async with gateway(Upstream()) as g, httpx.AsyncClient(base_url=g.url) as client:
        refused = await client.post("/v1/responses", content=json.dumps({"model": "m", **asked}))
    assert refused.status_code == 400
    assert "there is no stored" in refused.json()["error"]["message"]


async def test_a_page_of_items_has_no_endless_limit() -> None:
    async with gateway(Upstream()) as g, httpx.AsyncClient(base_url=g.url) as client:
        made = await g.sdk.responses.create(model="m", input="Hi")
        path = f"/v1/responses/{made.id}/input_items"
        refused = await client.get(path, params={"limit": "000000001" * 500})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "limit"
