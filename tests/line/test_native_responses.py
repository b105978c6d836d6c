"""`/v1/responses` onto an endpoint that speaks them itself."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from gateway.config.bind import Seconds
from gateway.config.tree import Cache
from gateway.domain import Ended
from tests.support.gateways import gateway
from tests.support.hosted import Hosted, Reply, replies
from tests.support.upstream import Upstream, event

pytestmark = pytest.mark.anyio

NATIVE = {"capabilities": ("tools", "responses")}
PART = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
MESSAGE = {
    "id": "msg_theirs",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [PART],
}
USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 1},
    "total_tokens": 13,
}


def response(status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {
        "id": "resp_theirs",
        "object": "response",
        "created_at": 1,
        "model": "theirs-m",
        "status": status,
        "error": None,
        "output": [MESSAGE],
        "usage": USAGE,
        "store": False,
        "extra": "kept",
        **fields,
    }


def stream(*, since: int = 0, until: int = 9) -> Hosted:
    begun = response("in_progress", output=[], usage=None)
    at: dict[str, Any] = {"item_id": "msg_theirs", "output_index": 0, "content_index": 0}
    told = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**MESSAGE, "content": []},
        },
        {"type": "response.content_part.added", **at, "part": {**PART, "text": ""}},
        {"type": "response.output_text.delta", **at, "delta": "Hello", "logprobs": []},
        {"type": "response.output_text.done", **at, "text": "Hello", "logprobs": []},
        {"type": "response.content_part.done", **at, "part": PART},
        {"type": "response.output_item.done", "output_index": 0, "item": MESSAGE},
        {"type": "response.completed", "response": response()},
    ]
    pieces = [event({**one, "sequence_number": 40 + n}) for n, one in enumerate(told)]
    headers = {"content-type": "text/event-stream"}
    return replies(Reply(pieces=tuple(pieces[since:until]), headers=headers))


async def test_it_is_asked_as_it_is_and_its_answer_passes_through() -> None:
    hosted = replies(Reply(body=response()))
    async with gateway(hosted, endpoint=NATIVE) as g:
        first = await g.sdk.responses.create(
            model="m",
            input="Hi",
            metadata={"a": "b"},
            reasoning={"effort": "low"},
            prompt_cache_key="ours",
            extra_body={"cache_salt": "ours"},
        )
        second = await g.sdk.responses.create(
            model="m", input="And?", previous_response_id=first.id
        )
        outcomes = await g.settled.wait_for(2)
        kept = await g.sdk.responses.retrieve(second.id)
    assert (first.output_text, first.model, first.metadata) == ("Hello", "m", {"a": "b"})
    assert first.id.startswith("resp_")
    assert first.id != "resp_theirs"
    assert first.model_extra is not None
    assert first.model_extra["extra"] == "kept"
    assert kept.previous_response_id == first.id
    assert [got.path for got in hosted.received] == ["/v1/responses"] * 2
    assert hosted.received[0].body == {
        "model": "theirs-m",
        "input": [{"type": "message", "role": "user", "content": "Hi"}],
        "reasoning": {"effort": "low"},
        "store": False,
    }
    assert [item["role"] for item in hosted.received[1].body["input"]] == [
        "user",
        "assistant",
        "user",
    ]
    usage = outcomes[0].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (11, 2, 3)


async def test_its_stream_passes_through_with_our_names() -> None:
    async with gateway(stream(), endpoint=NATIVE) as g:
        async with g.sdk.responses.stream(model="m", input="Hi") as told:
            events = [one async for one in told]
            final = await told.get_final_response()
        kept = await g.sdk.responses.retrieve(final.id)
        (outcome,) = await g.settled.wait_for(1)
    assert [one.sequence_number for one in events] == list(range(9))
    assert (final.output_text, final.model, kept.output_text) == ("Hello", "m", "Hello")
    (item,) = final.output
    number = final.id.removeprefix("resp_")
    assert item.id == f"msg_{number}0000"
    assert {one.item_id for one in events if hasattr(one, "item_id")} == {item.id}
    assert outcome.ended is Ended.FINISHED
    assert outcome.usage is not None


@pytest.mark.parametrize("since", [1, 2])
async def test_a_stream_that_does_not_say_that_it_begins_begins_here(since: int) -> None:
    async with (
        gateway(stream(since=since), endpoint=NATIVE) as g,
        g.sdk.responses.stream(model="m", input="Hi") as events,
    ):
        kinds = [event.type async for event in events]
        final = await events.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == "Hello"


async def test_a_chat_goes_to_the_same_endpoint_as_a_chat() -> None:
    async with gateway(hosted := replies(Reply()), endpoint=NATIVE) as g:
        await g.sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    assert hosted.received[0].path == "/v1/chat/completions"


async def test_another_endpoint_answers_with_a_chat_when_it_refuses() -> None:
    hosted = replies(Reply(500, {"error": {"message": "no"}}))
    async with gateway(hosted, Upstream(), endpoint=[NATIVE, {}]) as g:
        answer = await g.sdk.responses.create(model="m", input="Hi")
    assert answer.output_text == "Hello there"


async def test_a_stream_that_breaks_off_is_not_taken_up_in_other_words() -> None:
    async with gateway(stream(until=5), Upstream(), endpoint=[NATIVE, {}]) as g:
        told = await g.sdk.responses.create(model="m", input="Hi", stream=True)
        events = [one async for one in told]
        (outcome,) = await g.settled.wait_for(1)
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "upstream_broken"
    assert outcome.ended is Ended.FAILED


@pytest.mark.parametrize(
    "choice",
    [
        "auto",
        "required",
        {"type": "web_search"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]},
    ],
)
async def test_what_only_it_can_do_goes_there_alone(choice: Any) -> None:
    search = {"id": "ws_theirs", "type": "web_search_call", "status": "completed"}
    hosted = replies(Reply(body=response(output=[search, MESSAGE])))
    tools: Any = [{"type": "web_search"}]
    async with gateway(chats := Upstream(), hosted, endpoint=[{}, NATIVE]) as g:
        first = await g.sdk.responses.create(
            model="m", input="News?", tools=tools, tool_choice=choice
        )
        await g.sdk.responses.create(
            model="m", input="And?", tools=tools, previous_response_id=first.id
        )
    assert not chats.received
    assert [item.type for item in first.output] == ["web_search_call", "message"]
    asked = hosted.received[0].body
    assert (asked["tools"], asked["tool_choice"]) == (tools, choice)
    assert hosted.received[1].body["input"][1]["type"] == "web_search_call"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_an_answer_that_failed_there_is_an_error_here(status: str) -> None:
    hosted = replies(Reply(body=response(status)))
    async with gateway(hosted, endpoint=NATIVE) as g:
        with pytest.raises(openai.InternalServerError) as refused:
            await g.sdk.responses.create(model="m", input="Hi")
    assert refused.value.code == "upstream_broken"


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_is_given_again_is_all_of_it(streamed: bool) -> None:
    hosted = stream() if streamed else replies(Reply(body=response()))
    kept = Cache(models={"m": Seconds(60)})
    async with gateway(hosted, endpoint=NATIVE, cache=kept) as g:
        said = []
        for _ in range(2):
            if streamed:
                asked = g.sdk.responses.stream(model="m", input="Hi", temperature=0)
                async with asked as told:
                    said.append(await told.get_final_response())
            else:
                asked = g.sdk.responses.create(model="m", input="Hi", temperature=0)
                said.append(await asked)
        outcomes = await g.settled.wait_for(2)
    assert [outcome.cache for outcome in outcomes] == ["miss", "hit"]
    assert len(hosted.received) == 1
    first, again = said
    assert again.output_text == "Hello"
    assert again.id != first.id
    assert again.usage == first.usage
    assert outcomes[1].usage == outcomes[0].usage
