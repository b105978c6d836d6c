"""An answer onto the wire, as its fault wants it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from gateway.emulator.events import Event
from gateway.emulator.faults import FIRST, Fault
from gateway.emulator.http import Reply
from gateway.emulator.profile import Answer
from gateway.emulator.run import Run

WHOLE_PARTS = 4
"""An answer that is no stream breaks off after this part of its body."""


@dataclass(slots=True)
class Outcome:
    """What will be answered. `events` is one body where it is no stream."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    run: Run | None = None
    events: AsyncGenerator[Event, None] | None = None
    error: Callable[[], bytes] = bytes  # an error event's data, in the provider's shape
    waiting: bytes | None = None  # sent while nothing else comes
    waiting_every_s: float = 1.0
    headers_at_the_end: Callable[[], Mapping[str, str]] = field(default=dict)


def as_outcome(answer: Answer) -> Outcome:
    return Outcome(
        answer.status, {"content-type": answer.media_type, **answer.headers}, answer.body
    )


async def play(outcome: Outcome, fault: Fault, reply: Reply) -> None:
    if outcome.events is None:
        await reply.start(
            outcome.status,
            {**outcome.headers, **fault.headers},
            len(outcome.body),
            gzip=fault.gzip,
        )
        await reply.write(outcome.body)
        await reply.end()
    elif outcome.run is not None and outcome.run.asked.stream:
        await _Stream(outcome, fault, reply).play()
    else:
        await _play_whole(outcome, fault, reply)


# Streams


class _Stream:
    def __init__(self, outcome: Outcome, fault: Fault, reply: Reply) -> None:
        self._outcome = outcome
        self._fault = fault
        self._reply = reply
        self._tokens = 0
        self._held = b""  # the first of two events that go together

    async def play(self) -> None:
        outcome, fault, reply = self._outcome, self._fault, self._reply
        await reply.start(
            outcome.status, {**outcome.headers, **fault.headers}, None, gzip=fault.gzip
        )
        async with aclosing(awaited(outcome, reply)) as events:
            async for event in events:
                if await self._broke_off(event):
                    return
                await self._play_event(event)
        await self._send(b"", hold=False)
        await reply.end()

    async def _play_event(self, event: Event) -> None:
        fault = self._fault
        if event.tokens and fault.pace:
            await asyncio.sleep(fault.pace)
        if event.tokens and not self._tokens and fault.first_token:
            await asyncio.sleep(fault.first_token)
        await self._send(self._framed(event.data), hold=fault.join and not event.done)
        self._tokens += event.tokens
        if event.done and fault.trailing:
            await self._trail(fault.trailing)

    async def _broke_off(self, event: Event) -> bool:
        """Whether the fault's moment is now, and ends it all."""
        fault, reply = self._fault, self._reply
        now = self._tokens
        if fault.malformed == now and event.tokens:
            await self._send(self._framed(event.data[: len(event.data) // 2]), hold=False)
        if fault.empty == now and event.tokens:
            await self._send(self._framed(b""), hold=False)
        if now not in (fault.reset, fault.silence, fault.close, fault.truncate, fault.error):
            return False
        await self._send(b"", hold=False)
        if fault.reset == now:
            await asyncio.sleep(0.01)  # what was written arrives; a reset would discard it
            reply.reset()
        elif fault.silence == now:
            await reply.stall()
        else:
            if fault.truncate == now:
                await reply.write(self._framed(event.data)[: len(event.data) // 2])
            if fault.error == now:
                await reply.write(self._framed(self._outcome.error()))
            await reply.end()
        return True

    async def _trail(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            await self._reply.write(b"\n")
            await asyncio.sleep(min(0.05, seconds))

    def _framed(self, data: bytes) -> bytes:
        framed = (b"data:" if self._fault.no_space else b"data: ") + data + b"\n\n"
        return framed.replace(b"\n", b"\r\n") if self._fault.crlf else framed

    async def _send(self, data: bytes, *, hold: bool) -> None:
        if hold and not self._held:
            self._held = data
            return
        data, self._held = self._held + data, b""
        if self._fault.split and len(data) > 1:
            await self._reply.segments(data, _cut(data, self._fault.split))
        elif data:
            await self._reply.write(data)


def _cut(data: bytes, split: str) -> int:
    """Where a frame is cut: its middle, or inside its first character of several bytes."""
    inside = next((i for i, byte in enumerate(data) if 0x80 <= byte < 0xC0), None)
    return len(data) // 2 if split == "frame" or inside is None else inside


# One body


async def _play_whole(outcome: Outcome, fault: Fault, reply: Reply) -> None:
    early = outcome.waiting is not None  # the headers go out before the answer is there
    if early:
        await reply.start(outcome.status, {**outcome.headers, **fault.headers}, None)
    async with aclosing(awaited(outcome, reply)) as events:
        body = _disturbed((await anext(events)).data, outcome, fault)
        if not early:
            headers = {**outcome.headers, **outcome.headers_at_the_end(), **fault.headers}
            await reply.start(outcome.status, headers, len(body), gzip=fault.gzip)
        breaks_off = (at for at in (fault.reset, fault.silence, fault.close) if at is not None)
        at = next(breaks_off, None)
        if at is not None:
            await reply.write(b"" if at == FIRST else body[: len(body) // WHOLE_PARTS])
            await _break_off(fault, reply)
            return
        await _write_whole(body, fault, reply)
    await reply.end()


def _disturbed(body: bytes, outcome: Outcome, fault: Fault) -> bytes:
    if fault.error is not None:
        return outcome.error()
    if fault.empty is not None:
        return b""
    halved = fault.truncate is not None or fault.malformed is not None
    return body[: len(body) // 2] if halved else body


async def _write_whole(body: bytes, fault: Fault, reply: Reply) -> None:
    if fault.first_token:
        await asyncio.sleep(fault.first_token)
    if fault.split and len(body) > 1:
        await reply.segments(body, _cut(body, fault.split))
    else:
        await reply.write(body)


async def _break_off(fault: Fault, reply: Reply) -> None:
    if fault.reset is not None:
        await asyncio.sleep(0.01)
        reply.reset()
    elif fault.silence is not None:
        await reply.stall()
    else:
        reply.close()


async def awaited(outcome: Outcome, reply: Reply) -> AsyncGenerator[Event, None]:
    """The events; while the first is awaited, the provider's sign of life."""
    assert outcome.events is not None
    waiting = outcome.waiting
    async with aclosing(outcome.events) as events:
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            try:
                while not (await asyncio.wait({coming}, timeout=_pause(outcome, waiting)))[0]:
                    await reply.write(waiting or b"")
                event = coming.result()
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait({coming})
            if event is None:
                return
            waiting = None
            yield event


def _pause(outcome: Outcome, waiting: bytes | None) -> float | None:
    return outcome.waiting_every_s if waiting else None
