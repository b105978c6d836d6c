"""What OpenAI's SDK makes of each thing that can happen on an endpoint's wire, with the gateway
between: an error of the SDK's own, with a code, where without it there were a JSON decoder's, a
truncated answer that looks whole, or an empty one."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from starlette.types import Receive, Scope, Send

from gateway.emulator.emulated import emulated
from tests.emulator.callers import CHAT
from tests.emulator.test_through_the_gateway import speaking
from tests.line.test_native_responses import NATIVE, response
from tests.support.gateways import gateway
from tests.support.hosted import Hosted, Reply, replies
from tests.support.upstream import Upstream, event

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    "fault",
    [
        "reset: 3",  # TCP, inside a chunked body
        "truncate: 3",  # half an event, then the end
        "close: 3",  # a clean end, and no [DONE]
        "malformed: 3",  # no JSON
        "error: 3",  # an error in the middle
    ],
)
async def test_a_stream_that_is_no_answer_raises_with_a_code(fault: str) -> None:
    async with (
        emulated("openai", script=f"rules: [{{fault: {{{fault}}}}}]") as there,
        gateway(there.url, endpoint=speaking("openai")) as g,
    ):
        stream = await g.sdk.chat.completions.create(**CHAT, stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert type(caught.value) is openai.APIError
    assert caught.value.code == "upstream_broken"


async def test_an_event_with_nothing_in_it_is_left_out() -> None:
    """The SDKs' JSON decoders would raise."""
    async with (
        emulated("openai", script="rules: [{fault: {empty: 3}}]") as there,
        gateway(there.url, endpoint=speaking("openai")) as g,
    ):
        stream = await g.sdk.chat.completions.create(**CHAT, stream=True)
        reasons = [c.finish_reason async for event in stream for c in event.choices]
    assert reasons[-1] == "stop"


async def test_comments_that_keep_a_connection_alive_are_not_seen() -> None:
    async with (
        emulated("openrouter", overhead_s=0.3, script="rules: [{fault: {delay: 100ms}}]") as there,
        gateway(there.url, endpoint=speaking("openrouter")) as g,
    ):
        stream = await g.sdk.chat.completions.create(**CHAT, stream=True)
        said = "".join([c.delta.content or "" async for event in stream for c in event.choices])
    assert said


@pytest.mark.parametrize(
    ("fault", "raises", "code", "tries"),
    [
        ("{status: 502, body: html}", openai.InternalServerError, "upstream_refused", 3),
        ("{status: 502, body: empty}", openai.InternalServerError, "upstream_refused", 3),
        ("{status: 429, retry_after: 10ms}", openai.RateLimitError, "rate_limit_exceeded", 3),
        ("{status: 503}", openai.InternalServerError, "upstream_refused", 3),
        ("{status: 401}", openai.InternalServerError, "upstream_key_refused", 1),  # our key
        ("{status: 404}", openai.InternalServerError, "upstream_gone", 1),
        ("{status: 400}", openai.BadRequestError, "invalid_request_error", 1),
    ],
)
@pytest.mark.parametrize("name", ["openai", "sglang"])  # whose errors are flat
async def test_a_refusal_raises_its_exception_after_its_tries(
    fault: str, raises: type[openai.APIStatusError], code: str, tries: int, name: str
) -> None:
    async with (
        emulated(name, script=f"rules: [{{fault: {fault}}}]") as there,
        gateway(there.url, endpoint=speaking(name)) as g,
    ):
        with pytest.raises(raises) as caught:
            await g.sdk.with_options(max_retries=2).chat.completions.create(**CHAT)
        assert len(await g.settled.wait_for(tries)) == tries
    body = caught.value.body
    assert isinstance(body, dict)
    assert body.keys() >= {"message", "type", "param", "code"}
    if (name, fault) != ("sglang", "{status: 503}"):  # which says with it that it is full
        assert caught.value.code == code


async def test_an_answer_that_calls_itself_plain_text_is_json_to_the_client() -> None:
    upstream = Upstream()

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        async def relabelled(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [(b"content-type", b"text/plain")]}
            await send(message)

        await upstream(scope, receive, relabelled)

    async with gateway(plain) as g:
        raw = await g.sdk.chat.completions.with_raw_response.create(**ASK)
    assert raw.headers["content-type"] == "application/json"
    assert raw.parse().choices[0].message.content == "Hello there"


async def test_vectors_that_come_as_numbers_are_the_base64_that_was_asked_for() -> None:
    """Node's SDK makes an empty vector of numbers."""

    async def numbers(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"].endswith("/models"):
            await Upstream()(scope, receive, send)
            return
        body = b'{"data": [{"embedding": [0.5, -1.0]}], "usage": {"prompt_tokens": 1}}'
        head = {"type": "http.response.start", "status": 200, "headers": []}
        await send(head)
        await send({"type": "http.response.body", "body": body})

    async with gateway(numbers) as g:
        raw = await g.sdk.embeddings.with_raw_response.create(model="m", input="a")
        answer = await g.sdk.embeddings.create(model="m", input="a")
    assert '"embedding":"AAAAPwAAgL8="' in raw.text
    assert answer.data[0].embedding == [0.5, -1.0]


@pytest.mark.parametrize(
    "fails",
    [
        {"type": "error", "code": "server_error", "message": "no", "param": None},
        {"type": "response.failed", "response": response("failed", output=[])},
    ],
)
async def test_a_response_that_fails_ends_as_a_response_that_failed(fails: dict[str, Any]) -> None:
    """The SDK's `create` would take OpenAI's flat error for one more event."""
    begun = {"type": "response.created", "response": response("in_progress", output=[])}
    async with gateway(events(begun, fails), endpoint=NATIVE) as g:
        stream = await g.sdk.responses.create(model="m", input="Hi", stream=True)
        told = [one async for one in stream]
    assert [one.type for one in told] == ["response.created", "response.failed"]
    assert told[-1].response.error.code == "upstream_broken"


def events(*told: dict[str, Any]) -> Hosted:
    headers = {"content-type": "text/event-stream"}
    return replies(Reply(pieces=tuple(map(event, told)), headers=headers))
