"""A client that costs little and notices everything: requests over raw sockets."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

TOKEN = re.compile(rb'" token(\d+)"')
PROMPT = "Please answer the following question as well as you can: where does the river go? "


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask, and as whom."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str = "m"

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port

    def request(self, text: str, *, stream: bool) -> bytes:
        body = json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": PROMPT + text}],
                "temperature": 0.7,
                "max_tokens": 100,
                **({"stream": True} if stream else {}),
            }
        ).encode()
        host, port = self.address
        headers = {
            "host": f"{host}:{port}",
            "content-type": "application/json",
            "content-length": str(len(body)),
            **self.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + body


@dataclass
class Answer:
    status: int = 0
    asked: float = 0.0
    pieces: list[tuple[float, bytes]] = field(default_factory=list)  # of the body, as they came
    done: bool = False
    finished: float = 0.0

    @property
    def seconds(self) -> float:
        return self.finished - self.asked

    def tokens(self) -> list[int]:
        return [int(n) for n in TOKEN.findall(b"".join(piece for _, piece in self.pieces))]


class Client(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self._lost = False
        self._answer: Answer | None = None
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    async def connect(cls, target: Target) -> Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(cls, *target.address)
        return client

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._wake()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        assert self._answer is not None
        self._answer.pieces.append((time.perf_counter(), body))

    def on_message_complete(self) -> None:
        assert self._answer is not None
        self._answer.done, self._answer.finished = True, time.perf_counter()
        self._answer.status = self._parser.get_status_code()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def ask(self, request: bytes) -> Answer:
        self._parser = httptools.HttpResponseParser(self)
        self._answer = answer = Answer(asked=time.perf_counter())
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        if not self._lost:
            await self._waiter
        return answer

    def hang_up(self) -> None:
        self._transport.abort()


async def plain(target: Target, connections: int, requests: int) -> list[float]:
    """Seconds of each of so many requests, over connections that ask again at once."""
    left = requests
    seconds: list[float] = []

    async def one() -> None:
        nonlocal left
        client = await Client.connect(target)
        request = target.request("", stream=False)
        while left > 0:
            left -= 1
            answer = await client.ask(request)
            if answer.status != 200 or not answer.done:
                raise RuntimeError(f"{target.url} answered {answer.status}: {answer.pieces[:1]!r}")
            seconds.append(answer.seconds)
        client.hang_up()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(one())
    return seconds


@dataclass(frozen=True, slots=True)
class Streams:
    """What came of some streams that ran at once. Seconds."""

    first: Sequence[float]  # from asking to the first piece of the body
    gaps: Sequence[float]  # between pieces that hold tokens
    wrong: int  # streams that lost or reordered a token, or did not end with [DONE]


async def streams(target: Target, count: int, events: int, gap: float, spread: float) -> Streams:
    """`count` streams at once; they begin at even distances within `spread` seconds."""

    async def one(number: int) -> Answer:
        await asyncio.sleep(spread * number / count)
        client = await Client.connect(target)
        try:
            request = target.request(f"events={events} gap={gap} hold=none", stream=True)
            return await client.ask(request)
        finally:
            client.hang_up()

    answers = await asyncio.gather(*(one(number) for number in range(count)))
    wrong = sum(not _whole(answer, events) for answer in answers)
    first = [answer.pieces[0][0] - answer.asked for answer in answers if answer.pieces]
    gaps = []
    for answer in answers:
        times = [at for at, piece in answer.pieces if TOKEN.search(piece)]
        gaps += [b - a for a, b in itertools.pairwise(times)]
    return Streams(first, gaps, wrong)


def _whole(answer: Answer, events: int) -> bool:
    text = b"".join(piece for _, piece in answer.pieces)
    return (
        answer.done
        and answer.tokens() == list(range(events - 2))
        and text.rstrip().endswith(b"data: [DONE]")
    )


async def hang_up(target: Target, hold: str, after_s: float = 0.3) -> float:
    """Ask for an answer that never ends, hang up, and tell when; monotonic, seconds."""
    client = await Client.connect(target)
    asking = asyncio.create_task(
        client.ask(target.request(f"events=67 gap=0.02 hold={hold}", stream=True))
    )
    await asyncio.sleep(after_s)
    assert not asking.done(), f"{target.url} answered although the endpoint holds"
    when = time.monotonic()
    client.hang_up()
    await asking
    return when


async def get(url: str, path: str) -> object:
    """The JSON that a GET gives."""
    target = Target(url)
    client = await Client.connect(target)
    host, port = target.address
    answer = await client.ask(f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n".encode())
    client.hang_up()
    if answer.status != 200:
        raise ConnectionError(f"{path}: {answer.status}")
    return json.loads(b"".join(piece for _, piece in answer.pieces) or b"null")
