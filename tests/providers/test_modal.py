"""Modal's servers and web functions, as its documentation reads."""

from __future__ import annotations

import pytest

from gateway.errors import UpstreamBusy, UpstreamCold, UpstreamRefused, UpstreamTimeout
from gateway.providers.reading import Timeouts
from tests.support.hosted import STREAM, Hosted, Reply, answer, replies, speaking, text_of, whole
from tests.support.requests import chat

pytestmark = pytest.mark.anyio

RESULT = "/base/v1/chat/completions?function_call_id=fc-1"


async def test_a_token_has_two_halves_and_is_no_bearers() -> None:
    hosted = Hosted()
    async with speaking("modal_server", hosted) as provider:
        await answer(provider, chat("hi", session_id="s"))
    headers = hosted.received[0].headers
    assert (headers["modal-key"], headers["modal-secret"]) == ("key-one", "the-secret")
    assert "authorization" not in headers
    assert headers["modal-session-id"] == headers["modal-routing-affinity-key"] != "s"


async def test_a_server_that_is_not_up_is_cold_and_one_that_is_full_is_busy() -> None:
    async with speaking("modal_server", replies(Reply(503, b"none"), Reply(429, b""))) as provider:
        for kind in (UpstreamCold, UpstreamBusy):
            with pytest.raises(kind):
                await answer(provider, chat("hi"))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_function_that_says_where_its_answer_will_be_is_asked_there(stream: bool) -> None:
    pages = {
        RESULT: Reply(303, b"", {"location": "?still=1"}),
        "/base/v1/chat/completions?still=1": (
            Reply(pieces=STREAM) if stream else Reply(body=whole())
        ),
    }
    hosted = Hosted([Reply(303, b"", {"location": RESULT})], pages)
    async with speaking("modal_function", hosted) as provider:
        assert text_of(await answer(provider, chat("hi", stream=stream))) == "Hello"
    first, *later = hosted.received
    assert (first.method, first.headers["modal-key"]) == ("POST", "key-one")
    assert [got.path for got in later] == list(pages)
    for got in later:
        assert (got.method, got.body) == ("GET", None)
        assert (got.headers["modal-key"], got.headers["modal-secret"]) == ("key-one", "the-secret")
        assert "content-type" not in got.headers


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:1/base/v1/x",
        "https://evil.example/base/v1/x",
        "//evil.example/x",
        "",
    ],
)
async def test_its_key_goes_to_no_other_host(location: str) -> None:
    hosted = replies(Reply(303, b"", {"location": location}))
    async with speaking("modal_function", hosted) as provider:
        with pytest.raises(UpstreamRefused):
            await answer(provider, chat("hi"))
    assert len(hosted.received) == 1


async def test_following_ends_with_the_time_for_the_first_event() -> None:
    silent = Reply(pieces=(b" ",), holds=True)
    hosted = Hosted([Reply(303, b"", {"location": RESULT})], pages={RESULT: silent})
    waits = Timeouts(first_event=0.1)
    async with speaking("modal_function", hosted, timeouts=waits) as provider:
        with pytest.raises(UpstreamTimeout):
            await answer(provider, chat("hi"))


async def test_following_in_a_circle_ends_too() -> None:
    elsewhere = Reply(303, b"", {"location": RESULT})
    hosted = Hosted([elsewhere], pages={RESULT: elsewhere})
    async with speaking("modal_function", hosted) as provider:
        with pytest.raises(UpstreamRefused):
            await answer(provider, chat("hi"))


async def test_nobody_else_follows() -> None:
    hosted = replies(Reply(303, b"", {"location": RESULT}))
    async with speaking("modal_server", hosted) as provider:
        with pytest.raises(UpstreamRefused):
            await answer(provider, chat("hi"))
    assert len(hosted.received) == 1
