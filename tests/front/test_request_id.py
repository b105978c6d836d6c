from __future__ import annotations

import re

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.front.entrance import Entrance
from gateway.front.in_flight import InFlight
from gateway.front.request_id import request_id

pytestmark = pytest.mark.anyio


def entrance(app: ASGIApp) -> Entrance:
    return Entrance(app, {}, InFlight(), local_only=False)


async def named(*given: bytes) -> tuple[str, list[tuple[bytes, bytes]]]:
    """The id that the app sees, and the response's headers."""
    seen: list[str] = []
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(request_id(scope))
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hi"})

    async def receive() -> Message:
        raise NotImplementedError

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"x-request-id", value) for value in given]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    await entrance(app)(scope, receive, send)
    assert sent[1] == {"type": "http.response.body", "body": b"hi"}
    return seen[0], list(sent[0]["headers"])


@pytest.mark.parametrize("given", [b"r-1", b"A.b_c:d-9", b"x" * 128])
async def test_a_sane_id_is_kept(given: bytes) -> None:
    seen, headers = await named(given)
    assert seen == given.decode()
    assert headers == [(b"content-type", b"text/plain"), (b"x-request-id", given)]


@pytest.mark.parametrize(
    "given", [b"", b"x" * 129, b"a b", b"a\nb", b"r-1\n", b'"', b"\xff", b"<script>", b"a/b"]
)
async def test_another_is_replaced(given: bytes) -> None:
    seen, headers = await named(given)
    assert re.fullmatch("[0-9a-f]{32}", seen)
    assert headers[-1] == (b"x-request-id", seen.encode())


async def test_each_request_without_one_gets_its_own() -> None:
    assert len({(await named())[0] for _ in range(10)}) == 10


async def test_of_several_the_first_counts() -> None:
    assert (await named(b"one", b"two"))[0] == "one"


async def test_what_is_no_request_has_no_id() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    async def nothing(*_: object) -> Message:
        raise NotImplementedError

    async def nowhere(message: Message) -> None:
        raise NotImplementedError

    await entrance(app)({"type": "lifespan"}, nothing, nowhere)
    assert scopes == [{"type": "lifespan"}]
