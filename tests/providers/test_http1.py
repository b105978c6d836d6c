"""The HTTP client towards endpoints, against servers that send their bytes one by one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trustme

from gateway.providers import http1
from gateway.providers.http1 import MOST_UNREAD, PIECE, Http1Client
from gateway.providers.reading import read_body

pytestmark = pytest.mark.anyio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(handle: Handler, **options: Any) -> AsyncIterator[str]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, **options)
    async with server:
        port = server.sockets[0].getsockname()[1]
        scheme = "https" if options.get("ssl") else "http"
        yield f"{scheme}://127.0.0.1:{port}/v1/chat/completions"


@asynccontextmanager
async def transport(tls: ssl.SSLContext | None = None) -> AsyncIterator[Http1Client]:
    client = Http1Client(tls)
    try:
        yield client
    finally:
        await client.aclose()


async def head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The head and the body of the next request."""
    first = await head(reader)
    length = int(first.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
    return first, await reader.readexactly(length)


def saying(raw: bytes, *, once: bool = False) -> Handler:
    """Answers every request with these bytes, one at a time."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            for index in range(len(raw)):
                writer.write(raw[index : index + 1])
                await writer.drain()
            if once:
                return

    return handle


async def ask(client: Http1Client, url: str, content: bytes = b"{}") -> tuple[int, bytes]:
    response = await client.send("POST", url, {}, content)
    try:
        return response.status_code, await read_body(response)
    finally:
        await response.aclose()


WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
CLOSED = b"HTTP/1.1 200 OK\r\n\r\nhello"
UPGRADABLE = b"HTTP/1.1 200 OK\r\nupgrade: h2c\r\nconnection: Upgrade\r\n" + WHOLE[17:]
TRAILED = CHUNKED[:-2] + b"x-sum: 1\r\n\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + WHOLE


@pytest.mark.parametrize(
    "raw",
    [WHOLE, CHUNKED, TRAILED, EARLY, UPGRADABLE],
    ids=["length", "chunks", "trailer", "1xx first", "upgradable"],
)
async def test_an_answer_is_read_however_it_is_cut_and_its_connection_used_again(
    raw: bytes,
) -> None:
    connections = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await saying(raw)(reader, writer)

    async with served(counted) as url, transport() as client:
        for _ in range(3):
            assert await ask(client, url) == (200, b"hello")
    assert connections == 1


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async with served(saying(CLOSED, once=True)) as url, transport() as client:
        assert await ask(client, url) == (200, b"hello")
        assert await ask(client, url) == (200, b"hello")


@pytest.mark.parametrize(
    "raw",
    [WHOLE[:-2], CHUNKED[:-5], b"HTTP/1.1 200 OK\r\ncontent-le", b""],
    ids=["short", "no last chunk", "half a head", "nothing"],
)
async def test_an_answer_that_breaks_off_is_an_error(raw: bytes) -> None:
    async with served(saying(raw, once=True)) as url, transport() as client:
        with pytest.raises(httpx.ReadError):
            await ask(client, url)


SWITCHED = b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000, SWITCHED],
    ids=["odd", "huge", "another protocol"],
)
async def test_what_is_no_answer_is_an_error(raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(raw)
        await reader.read()

    async with served(handle) as url, transport() as client:
        with pytest.raises(httpx.ReadError):
            await ask(client, url)
    assert not caplog.records, "asyncio reports what escapes from a protocol"


async def test_a_whole_answer_that_nobody_read_stops_no_later_one() -> None:
    size = MOST_UNREAD + 1  # with its last byte the connection is paused
    large = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            writer.write(large)

    async with served(handle) as url, transport() as client:
        for _ in range(3):
            response = await client.send("POST", url, {}, b"{}")
            await asyncio.sleep(0.2)
            await response.aclose()
        assert len((await asyncio.wait_for(ask(client, url), 5))[1]) == size


async def test_a_connection_that_says_more_than_it_was_asked_is_not_used_again() -> None:
    async with served(saying(WHOLE + WHOLE, once=True)) as url, transport() as client:
        assert await ask(client, url) == (200, b"hello")
        await asyncio.sleep(0.05)
        assert await ask(client, url) == (200, b"hello")  # over a new connection


async def test_a_connection_that_was_closed_while_idle_is_not_used_again() -> None:
    async with served(saying(WHOLE, once=True)) as url, transport() as client:
        for _ in range(2):
            assert await ask(client, url) == (200, b"hello")
            await asyncio.sleep(0.05)


async def test_each_idle_connection_is_closed_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1, "KEEP_IDLE_S", 1.5)
    closed = asyncio.Queue[float]()
    now = asyncio.get_running_loop().time

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(WHOLE)
        closed.put_nowait(now())

    async with served(handle) as url, transport() as client:
        first, second = [await client.send("POST", url, {}, b"{}") for _ in range(2)]
        began = now()
        for response in (first, second):
            await read_body(response)
            await response.aclose()
            await asyncio.sleep(0.1)
        closed_s = [await closed.get() - began for _ in range(2)]
    assert closed_s[0] > 1.4
    assert closed_s[1] - closed_s[0] < 1.2  # not a whole round later


async def test_nobody_there_is_a_connect_error() -> None:
    async with served(saying(WHOLE)) as url:
        pass
    async with transport() as client:
        with pytest.raises(httpx.ConnectError):
            await ask(client, url)


async def test_a_large_body_arrives_whole() -> None:
    content = bytes(range(256)) * (PIECE * 5 // 256)
    received = b""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        _, received = await request(reader)
        writer.write(WHOLE)
        await writer.drain()

    async with served(handle) as url, transport() as client:
        assert await ask(client, url, content) == (200, b"hello")
    assert received == content


async def test_a_refusal_is_heard_before_the_whole_body_is_out() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await writer.drain()
        await asyncio.Event().wait()  # the rest of the body is never read

    async with served(handle) as url, transport() as client:
        asking = asyncio.create_task(ask(client, url, b"x" * 64 * PIECE))
        assert await asyncio.wait_for(asking, 30) == (413, b"no")


async def test_an_endpoint_has_to_wait_for_a_slow_reader() -> None:
    sent = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        for _ in range(1000):
            writer.write(piece)
            await writer.drain()
            sent += 65536
        writer.write(b"0\r\n\r\n")

    async with served(handle) as url, transport() as client:
        response = await client.send("POST", url, {})
        before = -1
        while sent != before:  # until the endpoint gets nothing more out
            before = sent
            await asyncio.sleep(0.2)
        assert MOST_UNREAD <= sent < 1000 * 65536 // 2
        size = 0
        while got := await response.stream.read():
            size += len(got)
        assert size == 1000 * 65536
        await response.aclose()


@pytest.mark.parametrize("phase", ["head", "body"])
async def test_whoever_leaves_early_closes_the_connection(phase: str) -> None:
    gone = asyncio.Event()
    asked = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        if phase == "body":
            writer.write(WHOLE[:-2])
        asked.set()
        assert await reader.read() == b""
        gone.set()

    async with served(handle) as url, transport() as client:
        asking = asyncio.create_task(ask(client, url))
        await asked.wait()
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_header_cannot_hold_another() -> None:
    async with served(saying(WHOLE)) as url, transport() as client:
        with pytest.raises(httpx.LocalProtocolError):
            await client.send("POST", url, {"x-request-id": "a\r\nx-admin: 1"})


async def test_redirects_are_handed_on_and_not_followed() -> None:
    raw = b"HTTP/1.1 307 Elsewhere\r\nlocation: http://example.com/\r\ncontent-length: 0\r\n\r\n"
    async with served(saying(raw)) as url, transport() as client:
        assert await ask(client, url) == (307, b"")


async def test_tls_is_spoken_with_whom_we_trust_and_with_nobody_else() -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    async with served(saying(WHOLE), ssl=server) as url:
        async with transport(ours) as client:
            assert await ask(client, url) == (200, b"hello")
        async with transport() as stranger:
            with pytest.raises(httpx.ConnectError):
                await ask(stranger, url)


async def test_a_certificate_for_another_name_is_refused() -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("elsewhere.example").configure_cert(server)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    async with served(saying(WHOLE), ssl=server) as url, transport(ours) as client:
        with pytest.raises(httpx.ConnectError):
            await ask(client, url)
