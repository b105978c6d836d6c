"""Answers that come compressed though nobody asked, as from a CDN between."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Sequence

import pytest

from gateway.errors import GatewayError, InvalidRequest, UpstreamBroken
from gateway.providers import reading
from tests.support.hosted import STREAM, Reply, answer, replies, speaking, text_of, whole
from tests.support.requests import chat

pytestmark = pytest.mark.anyio

GZIP = {"content-encoding": "gzip"}


def squeezed(pieces: Sequence[bytes], wbits: int = 31) -> tuple[bytes, ...]:
    """Each can be read when it is there."""
    squeeze = zlib.compressobj(wbits=wbits)
    sent = [squeeze.compress(piece) + squeeze.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    return (*sent, squeeze.flush())


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("GZIP", 31), ("deflate", 15)])
@pytest.mark.parametrize("stream", [False, True])
async def test_it_is_read(stream: bool, encoding: str, wbits: int) -> None:
    pieces = STREAM if stream else (json.dumps(whole()).encode(),)
    reply = Reply(pieces=squeezed(pieces, wbits), headers={"content-encoding": encoding})
    async with speaking("openai", replies(reply)) as provider:
        assert text_of(await answer(provider, chat("hi", stream=stream))) == "Hello"


async def test_a_streams_event_is_there_when_it_has_come() -> None:
    reply = Reply(pieces=squeezed(STREAM)[:1], headers=GZIP, holds=True)
    async with (
        speaking("openai", replies(reply)) as provider,
        provider.open(chat("hi", stream=True), "r-1") as events,
    ):
        assert text_of([await anext(events)]) == "Hel"


async def test_a_refusal_is_read_too() -> None:
    body = gzip.compress(b'{"error": {"message": "too hot", "param": "temperature"}}')
    async with speaking("openai", replies(Reply(400, body, GZIP))) as provider:
        with pytest.raises(InvalidRequest, match="too hot"):
            await answer(provider, chat("hi"))


WHOLE = json.dumps(whole()).encode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", WHOLE),  # is none
        ("gzip", gzip.compress(WHOLE)[:-12]),  # not all of it
        ("gzip", gzip.compress(b"".join(STREAM[:2]))[:-12]),
        ("br", WHOLE),  # which we cannot read
    ],
)
async def test_what_cannot_be_read_is_the_endpoints_failure(
    encoding: str, body: bytes, stream: bool
) -> None:
    reply = Reply(pieces=(body,), headers={"content-encoding": encoding})
    async with speaking("openai", replies(reply)) as provider:
        with pytest.raises(GatewayError) as caught:
            await answer(provider, chat("hi", stream=stream))
    assert type(caught.value) is UpstreamBroken


async def test_what_cannot_be_read_is_left_at_once() -> None:
    reply = Reply(pieces=STREAM, headers={"content-encoding": "br"}, holds=True)
    hosted = replies(reply)
    async with speaking("openai", hosted) as provider:
        with pytest.raises(UpstreamBroken):
            await answer(provider, chat("hi", stream=True))
        await asyncio.wait_for(hosted.hung_up.wait(), 10)


async def test_a_little_that_stands_for_very_much_is_counted_as_it_unfolds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "MAX_BODY", 1_000_000)
    bomb = gzip.compress(b" " * 50_000_000)
    async with speaking("openai", replies(Reply(body=bomb, headers=GZIP))) as provider:
        with pytest.raises(UpstreamBroken, match="larger than 1000000 bytes"):
            await answer(provider, chat("hi"))
