"""Writes of many connections: which wait for each other, and which do not."""

from __future__ import annotations

import asyncio

import pytest

from gateway.outbox import LARGE, Outbox

pytestmark = pytest.mark.anyio


class Recording(asyncio.Transport):
    """Keeps what was written, in the order of all of them."""

    def __init__(self, name: str, writes: list[tuple[str, bytes]]) -> None:
        super().__init__()
        self.name = name
        self.writes = writes
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed, "a closed transport of uvloop's raises"
        self.writes.append((self.name, bytes(data)))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.fixture
def writes() -> list[tuple[str, bytes]]:
    return []


async def test_what_is_ready_runs_before_anything_is_written_and_each_writes_once(writes) -> None:
    outbox = Outbox()
    a, b = (outbox.of(Recording(name, writes)) for name in "ab")

    async def say(*parts: bytes) -> None:
        for part in parts:
            for transport in (a, b):
                transport.write(part)
        assert writes == []

    await asyncio.gather(say(b"head ", b"body "), say(b"more"))
    assert writes == [("a", b"head body more"), ("b", b"head body more")]
    a.write(b"next")
    await asyncio.sleep(0)
    assert writes[2:] == [("a", b"next")]


async def test_what_is_large_is_written_at_once_after_what_came_before(writes) -> None:
    transport = Outbox().of(Recording("a", writes))
    transport.write(b"head")
    transport.write(b"x" * LARGE)
    assert writes == [("a", b"head" + b"x" * LARGE)]
    transport.write(b"end")
    await asyncio.sleep(0)
    assert writes[1:] == [("a", b"end")]


async def test_who_closes_has_written_and_who_aborts_has_not(writes) -> None:
    outbox = Outbox()
    closed, aborted = (outbox.of(Recording(name, writes)) for name in ("closed", "aborted"))
    for transport in (closed, aborted):
        transport.write(b"last words")
    closed.close()
    aborted.abort()
    await asyncio.sleep(0)
    assert writes == [("closed", b"last words")]
    assert closed.is_closing()
    assert aborted.is_closing()


async def test_one_that_the_other_side_has_left_keeps_nobody_from_writing(writes) -> None:
    outbox, left = Outbox(), Recording("left", writes)
    gone, other = outbox.of(left), outbox.of(Recording("other", writes))
    gone.write(b"to nobody")
    other.write(b"hello")
    left.closed = True
    await asyncio.sleep(0)
    assert writes == [("other", b"hello")]


async def test_one_that_cannot_be_written_to_is_closed_and_silences_nobody(writes, caplog) -> None:
    outbox, broken = Outbox(), Recording("broken", writes)
    bad, other = outbox.of(broken), outbox.of(Recording("other", writes))
    bad.write(b"head ")
    bad.write("no bytes")  # type: ignore[arg-type]
    for word in (b"hello", b"again"):
        other.write(word)
        await asyncio.sleep(0)
    assert writes == [("other", b"hello"), ("other", b"again")]
    assert broken.closed
    assert "could not be written to" in caplog.text
