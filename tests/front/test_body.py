from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from starlette.types import Message, Scope

from gateway.errors import BodyTooLarge, GatewayError, RequestTimeout
from gateway.front.body import BodyLimits, HungUp, read_body

pytestmark = pytest.mark.anyio


class Client:
    """Sends these messages, then nothing."""

    def __init__(self, *messages: Message) -> None:
        self._messages = list(messages)
        self.asked = 0

    async def receive(self) -> Message:
        self.asked += 1
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop(0)


def piece(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def read(
    client: Client, headers: Mapping[str, str] | None = None, *, size: int = 10, seconds: float = 5
) -> bytes:
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope: Scope = {"type": "http", "headers": raw}
    return await read_body(scope, client.receive, BodyLimits(size, seconds))


@pytest.mark.parametrize(
    "messages",
    [
        [piece(b"0123456789")],  # as large as may be
        [piece(b"01234", more=True), piece(b"", more=True), piece(b"56789")],
        [piece(b"0123456789", more=True), {"type": "http.request"}],
    ],
)
async def test_a_body_is_read_whole(messages: list[Message]) -> None:
    assert await read(Client(*messages), {"content-length": "10"}) == b"0123456789"


async def test_an_empty_body_is_a_body() -> None:
    assert await read(Client({"type": "http.request"})) == b""


async def test_a_body_that_says_it_is_too_large_is_not_even_read() -> None:
    client = Client(piece(b"0123"))
    with pytest.raises(BodyTooLarge, match="larger than 10 bytes"):
        await read(client, {"content-length": "11"})
    assert client.asked == 0


async def test_a_body_that_does_not_say_is_read_no_further_than_the_limit() -> None:
    client = Client(*[piece(b"012345", more=True)] * 10)
    with pytest.raises(BodyTooLarge, match="larger than 10 bytes"):
        await read(client)
    assert client.asked == 2


@pytest.mark.parametrize("sent", [[], [piece(b"0", more=True)]])
async def test_a_body_that_does_not_arrive_in_time(sent: list[Message]) -> None:
    with pytest.raises(RequestTimeout, match=r"did not arrive within 0\.01 seconds"):
        await read(Client(*sent), seconds=0.01)


@pytest.mark.parametrize("sent", [[], [piece(b"0", more=True)]])
async def test_a_client_that_leaves_while_it_sends(sent: list[Message]) -> None:
    with pytest.raises(HungUp):
        await read(Client(*sent, {"type": "http.disconnect"}))


def test_leaving_is_no_error_to_answer() -> None:
    assert not issubclass(HungUp, GatewayError)
