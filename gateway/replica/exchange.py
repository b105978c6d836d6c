"""
One request and its answer, in one task that never loses sight of the client.

The engine works in its own thread; what it says reaches the task through an `Inbox`. The client may
hang up at any moment, before the first token and in an answer that is not streamed too, so the
connection is listened to from the first line. Hanging up is a normal ending.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Receive, Send

from gateway.domain import ReplicaReport
from gateway.errors import BodyTooLarge, RequestTimeout, Unavailable
from gateway.replica.answer import Answer
from gateway.replica.api import Ask
from gateway.replica.request import Counts, Finish, Sampling, Submission
from gateway.replica.text import TextStream, Tokenizer

BODY_S = 30.0
"""Seconds that a client may take to send its body."""


class HungUp(Exception):
    """The client has closed its connection. Nobody is left to be told."""


class Submits(Protocol):
    """What an exchange needs of the engine."""

    def submit(self, submission: Submission) -> None:
        """Raises ContextLengthExceeded, RateLimited or Unavailable."""
        ...

    def abort(self, request_id: str) -> None:
        """Frees a request at the next step; one that is over already is left alone."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    finish: Finish
    counts: Counts


class Inbox:
    """What has happened to one request and was not yet taken. Filled from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pieces: deque[str] = deque()
        self._end: Done | Exception | None = None
        self._arrived = asyncio.Event()

    def put(self, piece: str) -> None:
        self._pieces.append(piece)
        self._loop.call_soon_threadsafe(self._arrived.set)

    def end(self, end: Done | Exception) -> None:
        """Nothing comes after it."""
        self._end = end
        self._loop.call_soon_threadsafe(self._arrived.set)

    async def take(self) -> tuple[list[str], Done | None]:
        """All the text that has piled up, and the end if it has come.

        Raises the exception that the request ended with, Unavailable if the engine gave it up.
        """
        await self._arrived.wait()
        self._arrived.clear()
        # The end is read first: every piece was put before it, and so is in the deque.
        end = self._end
        if isinstance(end, Exception):
            raise end
        if end is not None and end.finish is Finish.ABORTED:
            raise Unavailable("the replica stopped before the answer was complete")
        return [self._pieces.popleft() for _ in range(len(self._pieces))], end


@dataclass(frozen=True, slots=True)
class Exchange:
    ask: Ask
    prompt: tuple[int, ...]
    engine: Submits
    tokenizer: Tokenizer
    report: Callable[[], ReplicaReport | None]  # asked for when the answer ends
    inbox: Inbox

    async def run(self, send: Send) -> Done:
        """Answers the request; raises before the first byte whatever can be known by then."""
        submission = self._submission()
        answer = Answer(
            operation=self.ask.operation,
            id=submission.id,
            created=int(time.time()),
            model=self.ask.model,
            include_usage=self.ask.include_usage,
        )
        with _submitted(self.engine, submission):
            respond = self._stream if self.ask.stream else self._whole
            return await respond(answer, send)

    async def _stream(self, answer: Answer, send: Send) -> Done:
        started, end = False, None
        out = answer.first()
        while end is None:
            pieces, end = await self.inbox.take()
            out += b"".join(answer.piece(piece) for piece in pieces)
            if end is not None:
                out += answer.last(end.finish, end.counts, self.report())
            if not started:
                await send(_start(answer.id, b"text/event-stream", (b"cache-control", b"no-cache")))
                started = True
            await send({"type": "http.response.body", "body": out, "more_body": end is None})
            out = b""
        return end

    async def _whole(self, answer: Answer, send: Send) -> Done:
        text, end = "", None
        while end is None:
            pieces, end = await self.inbox.take()
            text += "".join(pieces)
        body = answer.whole(text, end.finish, end.counts, self.report())
        length = (b"content-length", str(len(body)).encode())
        await send(_start(answer.id, b"application/json", length))
        await send({"type": "http.response.body", "body": body})
        return end

    def _submission(self) -> Submission:
        ask, inbox = self.ask, self.inbox
        text = TextStream(self.tokenizer, ask.stop)

        # All three run on the engine's thread, which makes it the one thread that owns `text`.
        def on_token(token: int) -> bool:
            if piece := text.push(token):
                inbox.put(piece)
            return text.stopped

        def on_finish(finish: Finish, counts: Counts) -> None:
            if rest := text.finish():
                inbox.put(rest)
            inbox.end(Done(finish, counts))

        return Submission(
            id=f"{'chatcmpl' if ask.messages else 'cmpl'}-{uuid.uuid4().hex}",
            prompt=self.prompt,
            sampling=Sampling(
                temperature=ask.temperature,
                top_p=ask.top_p,
                seed=ask.seed,
                max_tokens=ask.max_tokens,
                stop_tokens=self.tokenizer.stop_tokens,
            ),
            on_token=on_token,
            on_finish=on_finish,
            on_error=inbox.end,
            salt=ask.cache_salt,
            priority=ask.priority,
        )


async def read_body(receive: Receive, most: int) -> bytes:
    """The request's body. Raises BodyTooLarge, RequestTimeout, HungUp."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise HungUp
                body += message.get("body", b"")
                if len(body) > most:
                    raise BodyTooLarge(f"the body is larger than {most} bytes")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {BODY_S:g} s") from None


@asynccontextmanager
async def listening(receive: Receive, inbox: Inbox) -> AsyncIterator[None]:
    """While it lasts, a client that hangs up ends the inbox with HungUp. After `read_body`."""

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        inbox.end(HungUp())

    listener = asyncio.create_task(listen())
    try:
        yield
    finally:
        listener.cancel()


@contextmanager
def _submitted(engine: Submits, submission: Submission) -> Iterator[None]:
    engine.submit(submission)
    try:
        yield
    finally:
        engine.abort(submission.id)


def _start(answer_id: str, content_type: bytes, *more: tuple[bytes, bytes]) -> dict[str, object]:
    headers = [(b"content-type", content_type), (b"x-request-id", answer_id.encode()), *more]
    return {"type": "http.response.start", "status": 200, "headers": headers}
