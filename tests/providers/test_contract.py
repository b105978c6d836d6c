"""What every dialect keeps, whoever adds it: these run on each file in the folder by themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.errors import (
    ContextLengthExceeded,
    GatewayError,
    InvalidRequest,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamGone,
    UpstreamKeyRefused,
    UpstreamOverloaded,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnpaid,
)
from gateway.providers.catalog import dialect_names, find_dialect
from gateway.providers.keys import LONGEST_REST_S
from gateway.providers.reading import Timeouts
from tests.support.clock import ManualClock
from tests.support.hosted import (
    STREAM,
    Hosted,
    Reply,
    answer,
    chunk,
    replies,
    speaking,
    text_of,
    whole,
)
from tests.support.requests import chat, completion
from tests.support.upstream import event

DOCS = (Path(__file__).parents[2] / "docs" / "providers.md").read_text()

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("dialect", dialect_names())]


# The request.


async def test_it_asks_the_right_place_for_the_endpoints_model(dialect: str) -> None:
    hosted = Hosted()
    async with speaking(dialect, hosted) as provider:
        for stream in (False, True):
            await answer(provider, chat("hi", stream=stream))
            await answer(provider, completion("hi", stream=stream))
    places = ["/base/v1/chat/completions", "/base/v1/completions"]
    assert [r.path for r in hosted.received] == places * 2
    assert [r.body["model"] for r in hosted.received] == ["theirs/m"] * 4


async def test_the_key_is_where_it_belongs_and_nowhere_else(dialect: str) -> None:
    hosted = Hosted()
    async with speaking(dialect, hosted, keys=("key-one",)) as provider:
        await answer(provider, chat("hi"))
        assert "key-one" not in repr(provider)
        assert "the-secret" not in repr(provider)
    (got,) = hosted.received
    name, before = provider.key_header
    assert [n for n, v in got.headers.items() if "key-one" in v] == [name]
    assert got.headers[name] == before + "key-one"
    secret = [n for n, v in got.headers.items() if "the-secret" in v]
    assert secret == ([provider.secret_header] if provider.secret_header else [])
    assert "key-one" not in str(got.body)


async def test_without_a_key_none_is_sent(dialect: str) -> None:
    hosted = Hosted()
    async with speaking(dialect, hosted, keys=(), secret="") as provider:
        await answer(provider, chat("hi"))
    assert not {"authorization", provider.key_header[0]} & set(hosted.received[0].headers)


async def test_it_sends_these_headers_and_no_others(dialect: str) -> None:
    """So nothing of a client's reaches a provider by way of a header."""
    hosted = Hosted()
    more = {"X-Team": "search"}
    async with speaking(dialect, hosted, extra_headers=more) as provider:
        await answer(provider, chat("hi", session_id="s", stream=True))
    plain = {"host", "content-type", "content-length", "accept", "accept-encoding"}
    own = {provider.key_header[0], provider.secret_header, *provider.session_headers}
    assert set(hosted.received[0].headers) - own == plain | {"x-request-id", "x-team"}
    assert hosted.received[0].headers["x-team"] == "search"


async def test_a_session_is_named_only_where_it_is_understood_and_never_as_the_client_does(
    dialect: str,
) -> None:
    hosted = Hosted()
    for hint_key in (b"this endpoint's", b"another endpoint's"):
        async with speaking(dialect, hosted, hint_key=hint_key) as provider:
            await answer(provider, chat("hi", session_id="conversation-7"))
    async with speaking(dialect, hosted) as provider:
        await answer(provider, chat("hi", session_id="conversation-7", tenant="other"))
        await answer(provider, chat("hi", prompt_cache_key="conversation-7"))
        await answer(provider, chat("hi"))
    everything = [{**r.headers, **r.body} for r in hosted.received]
    assert "conversation-7" not in str(everything)
    places = {*provider.session_headers, *provider.session_fields}
    mine, elsewhere, other, by_openais_name, none = everything
    for place in places:
        assert mine[place] == by_openais_name[place]
        assert len({mine[place], elsewhere[place], other[place]}) == 3
        assert place not in none
    known = {"session_id", "prompt_cache_key", "x-session-affinity", "modal-session-id"}
    if dialect != "replica":  # which is ours, and keeps sessions apart by itself
        assert known & set(mine) == places & known


async def test_max_tokens_has_one_name(dialect: str) -> None:
    hosted = Hosted()
    async with speaking(dialect, hosted) as provider:
        await answer(provider, chat("hi", max_completion_tokens=7, max_tokens=9))
        await answer(provider, completion("hi", max_tokens=5))
    body, older = (r.body for r in hosted.received)
    names = ("max_tokens", "max_completion_tokens")
    expected = {"max_tokens": 9, "max_completion_tokens": 7}
    if provider.max_tokens_as is not None:
        expected = {provider.max_tokens_as: 7}
    assert {n: body[n] for n in names if n in body} == expected
    assert older["max_tokens"] == 5


async def test_what_the_model_thought_before_has_the_endpoints_name(dialect: str) -> None:
    hosted = Hosted()
    said = {"role": "assistant", "content": "4", "reasoning_content": "2+2"}
    async with speaking(dialect, hosted) as provider:
        await answer(provider, chat(messages=[{"role": "user", "content": "?"}, said]))
    assert hosted.received[0].body["messages"][1] == {
        "role": "assistant",
        "content": "4",
        provider.reasoning_as: "2+2",
    }


# The answer.


async def test_a_plain_answer_is_one_event_with_its_usage(dialect: str) -> None:
    async with speaking(dialect, Hosted()) as provider:
        (only,) = await answer(provider, chat("hi"))
    assert text_of([only]) == "Hello"
    assert only.usage is not None
    assert (only.usage.prompt_tokens, only.usage.completion_tokens) == (11, 2)
    assert only.usage.cached_tokens is None, "not told is not none"


@pytest.mark.parametrize("asked", [True, False])
async def test_usage_is_asked_for_in_a_stream_and_kept_from_who_did_not(
    dialect: str, asked: bool
) -> None:
    told = {"prompt_tokens": 11, "completion_tokens": 2}
    with_usage = chunk(None, "stop", usage=told)
    hosted = replies(Reply(pieces=(chunk("Hello"), with_usage, b"data: [DONE]\n\n")))
    async with speaking(dialect, hosted) as provider:
        events = await answer(
            provider, chat("hi", stream=True, stream_options={"include_usage": asked})
        )
    assert hosted.received[0].body["stream_options"]["include_usage"] is True
    assert events[-1].usage is not None
    assert ("usage" in events[-1].payload) is asked


async def test_a_stream_with_everything_around_it_is_its_events(dialect: str) -> None:
    around = (
        b": OPENROUTER PROCESSING\r\n\r\n",
        b"event: ping\ndata: {}\n\n",
        STREAM[0][:9],
        STREAM[0][9:] + STREAM[1],
        b": keep-alive\n\n",
        *STREAM[2:],
    )
    async with speaking(dialect, replies(Reply(pieces=around))) as provider:
        events = await answer(provider, chat("hi", stream=True))
    assert text_of(events) == "Hello"
    assert len(events) == 4


async def test_empty_lines_before_a_plain_answer_are_nothing(dialect: str) -> None:
    body = b"\n\n\n" + b'{"choices": [{"message": {"content": "late"}}]}'
    async with speaking(dialect, replies(Reply(body=body))) as provider:
        events = await answer(provider, chat("hi"))
    assert text_of(events) == "late"


async def test_the_connection_is_cut_when_we_leave(dialect: str) -> None:
    hosted = replies(Reply(pieces=STREAM[:2], holds=True))
    async with speaking(dialect, hosted) as provider:
        async with provider.open(chat("hi", stream=True), "r-1") as events:
            await anext(events)
        await asyncio.wait_for(hosted.hung_up.wait(), 10)


async def test_a_stream_that_breaks_is_never_a_short_answer(dialect: str) -> None:
    broken = [
        (),
        (chunk("Hel"),),
        (chunk("Hel"), event({"error": {"message": "key-one at 10.0.0.9"}})),
        (chunk("Hel"), chunk(None, "error")),
        (chunk("Hel"), b"event: error\ndata: overloaded\n\n"),
        (chunk("Hel"), event({"error": {"message": "later", "code": 429}})),
        (chunk("Hel"), b"data: [DONE]\n\n"),  # and no reason
    ]
    async with speaking(dialect, replies(*(Reply(pieces=pieces) for pieces in broken))) as provider:
        for _ in broken:
            with pytest.raises(UpstreamBroken) as caught:
                await answer(provider, chat("hi", stream=True))
            assert "10.0.0.9" not in caught.value.message


async def test_keep_alives_are_no_first_event(dialect: str) -> None:
    hosted = replies(Reply(pieces=(b": keep-alive\n\n",) * 3, holds=True))
    waits = Timeouts(first_event=0.05, between_events=60)
    async with speaking(dialect, hosted, timeouts=waits) as provider:
        with pytest.raises(UpstreamTimeout):
            await answer(provider, chat("hi", stream=True))


@pytest.mark.parametrize("waits", [Timeouts(between_events=0.05), Timeouts(total=0.05)])
async def test_a_silence_within_an_answer_ends_it(dialect: str, waits: Timeouts) -> None:
    hosted = replies(Reply(pieces=STREAM[:2], holds=True))
    async with speaking(dialect, hosted, timeouts=waits) as provider:
        with pytest.raises(UpstreamTimeout):
            await answer(provider, chat("hi", stream=True))


# Refusals.


async def refusals_of(dialect: str, *given: Reply, stream: bool = False) -> list[GatewayError]:
    errors = []
    async with speaking(dialect, replies(*given)) as provider:
        for _ in given:
            with pytest.raises(GatewayError) as caught:
                await answer(provider, chat("hi", stream=stream))
            errors.append(caught.value)
    return errors


BETWEEN_US = {
    307: UpstreamRefused,
    401: UpstreamKeyRefused,
    402: UpstreamUnpaid,
    404: UpstreamGone,
    408: UpstreamTimeout,
    410: UpstreamGone,
    429: UpstreamBusy,
    500: UpstreamRefused,
    502: UpstreamRefused,
    504: UpstreamTimeout,
}


async def test_what_is_between_us_and_the_endpoint_stays_there(dialect: str) -> None:
    body = {"error": {"message": "Incorrect API key key-one at 10.0.0.9"}}
    errors = await refusals_of(
        dialect, *(Reply(status, body, {"location": "/elsewhere"}) for status in BETWEEN_US)
    )
    assert [type(error) for error in errors] == list(BETWEEN_US.values())
    for error in errors:
        assert "key-one" not in error.message
        assert "10.0.0.9" not in error.message


async def test_no_room_is_the_endpoints_fault_in_any_shape(dialect: str) -> None:
    bodies: list[object] = [b"<html>busy</html>", b"", {"error": "busy"}, {"detail": "no"}, [], 7]
    given = [Reply(status, body) for status in (503, 529, 500) for body in bodies]
    for error in await refusals_of(dialect, *given):
        assert isinstance(error, UpstreamError)


async def test_who_says_when_to_come_back_has_not_begun(dialect: str) -> None:
    (error,) = await refusals_of(dialect, Reply(503, b"", {"retry-after": "7"}))
    assert isinstance(error, UpstreamOverloaded)
    assert (error.took_work, error.retry_after_s) == (False, 7)


async def test_one_body_in_the_place_of_a_stream_is_read_for_its_error(dialect: str) -> None:
    body = {"error": {"message": "later", "code": 429}}
    for told, kind in ((body, UpstreamBusy), (whole(), UpstreamBroken)):
        reply = Reply(body=told, headers={"content-type": "application/json"})
        (error,) = await refusals_of(dialect, reply, stream=True)
        assert type(error) is kind


async def test_the_clients_mistake_goes_back_in_the_endpoints_words(dialect: str) -> None:
    bodies: list[object] = [
        {"error": {"message": "top_k must be positive", "type": "invalid_request_error"}},
        {"error": "top_k must be positive"},
        {"detail": "top_k must be positive"},
        {"detail": [{"loc": ["body", "top_k"], "msg": "top_k must be positive", "type": "x"}]},
        {"object": "error", "message": "top_k must be positive", "code": 400},
        {"fault": {"faultstring": "top_k must be positive", "detail": {"errorcode": "x"}}},
    ]
    given = [Reply(status, body) for status in (400, 422) for body in bodies]
    for error in await refusals_of(dialect, *given):
        assert type(error) is InvalidRequest
        assert "top_k must be positive" in error.message


async def test_a_model_that_is_not_there_is_our_configs_mistake(dialect: str) -> None:
    body = {"error": {"message": "no theirs/m", "code": "model_not_found"}}
    (error,) = await refusals_of(dialect, Reply(400, body))
    assert type(error) is UpstreamGone


async def test_a_context_that_is_exceeded_is_told_from_other_mistakes(dialect: str) -> None:
    words = "This model's maximum context length is 8192 tokens; you asked for 9000."
    (error,) = await refusals_of(dialect, Reply(400, {"error": {"message": words}}))
    assert type(error) is ContextLengthExceeded


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_inside_a_200_counts_as_its_own_status(dialect: str, stream: bool) -> None:
    body = {"error": {"message": "slow down", "code": 429}}
    reply = Reply(pieces=(event(body),)) if stream else Reply(body=body)
    (error,) = await refusals_of(dialect, reply, stream=stream)
    assert type(error) is UpstreamBusy


# Keys.


@pytest.mark.parametrize("status", [429, 401, 402])
async def test_the_next_key_is_used_when_one_is_refused(dialect: str, status: int) -> None:
    clock = ManualClock()
    hosted = replies(Reply(status, {"error": "no"}, {"retry-after": "30"}), Reply())
    async with speaking(dialect, hosted, keys=("key-one", "key-two"), clock=clock) as provider:
        assert text_of(await answer(provider, chat("hi"))) == "Hello"
        await answer(provider, chat("hi"))
        clock.advance(61)
        await answer(provider, chat("hi"))
    name, before = provider.key_header
    used = [r.headers[name].removeprefix(before) for r in hosted.received]
    assert used == ["key-one", "key-two", "key-two", "key-two"], "the first was rested, then last"


async def test_when_all_keys_are_at_their_limit_it_says_so_and_for_how_long(dialect: str) -> None:
    hosted = replies(
        Reply(429, {"error": "no"}, {"retry-after-ms": "9500"}),
        Reply(429, {"error": "no"}, {"retry-after": "30"}),
    )
    async with speaking(
        dialect, hosted, keys=("key-one", "key-two"), clock=ManualClock()
    ) as provider:
        with pytest.raises(UpstreamBusy) as caught:
            await answer(provider, chat("hi"))
        assert provider.rests_s() == 9.5
    assert caught.value.retry_after_s == 9.5
    assert len(hosted.received) == 2


async def test_an_answer_that_says_that_nothing_remains_rests_its_key(dialect: str) -> None:
    clock = ManualClock()
    spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}
    hosted = replies(Reply(headers=spent), Reply())
    async with speaking(dialect, hosted, clock=clock) as provider:
        await answer(provider, chat("hi"))
        assert provider.rests_s() == 90
        clock.advance(90)
        assert provider.rests_s() == 0


async def test_a_key_that_serves_although_it_should_rest_rests_no_longer(dialect: str) -> None:
    hosted = replies(Reply(429, {"error": "no"}, {"retry-after": "86400"}), Reply())
    async with speaking(dialect, hosted, clock=ManualClock()) as provider:
        with pytest.raises(UpstreamBusy):
            await answer(provider, chat("hi"))
        assert provider.rests_s() == LONGEST_REST_S
        await answer(provider, chat("hi"))
        assert provider.rests_s() == 0


# The file.


async def test_it_has_its_row_in_the_docs(dialect: str) -> None:
    assert f"\n| `{dialect}` |" in DOCS
    place = find_dialect(dialect).URL
    assert place is None or (place.startswith("https://") and place in DOCS)
