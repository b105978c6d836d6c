import asyncio

import pytest

from gateway.supervisor.states import (
    LONGEST_LINE,
    Failed,
    Loading,
    Ready,
    read_lines,
    read_state,
)


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ('{"state": "loading", "done": 0.4, "step": "packing"}', Loading("packing", 0.4)),
        ('{"state": "loading", "done": 1, "step": "packing"}', Loading("packing", 1.0)),
        (
            '{"state": "ready", "host": "127.0.0.1", "port": 80, "epoch": "e", "more": 1}',
            Ready("http://127.0.0.1:80", "e"),
        ),
        (
            '{"state": "ready", "host": "::1", "port": 80, "epoch": "e"}',
            Ready("http://[::1]:80", "e"),
        ),
        ('{"state": "failed", "error": "no memory"}', Failed("no memory")),
        ('{"state": "ready", "host": "127.0.0.1", "epoch": "e"}', None),  # no port
        ('{"state": "ready", "host": "127.0.0.1", "port": "80", "epoch": "e"}', None),
        ('{"state": "dreaming"}', None),
        ("[1, 2]", None),
        ("null", None),
        ("", None),
        ("Traceback (most recent call last):", None),
        ("[" * 60_000, None),
    ],
)
def test_read_state(line: str, state: object) -> None:
    assert read_state(line) == state


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("sent", "lines"),
    [
        (b"", []),
        (b"a\nb\n", ["a", "b"]),
        (b"a\n\nno end", ["a", "", "no end"]),
        (b"\xff\n", ["\N{REPLACEMENT CHARACTER}"]),
        (b"x" * 3 * LONGEST_LINE + b"\nnext\n", ["x" * LONGEST_LINE, "next"]),
    ],
)
async def test_read_lines(sent: bytes, lines: list[str]) -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(sent)
    stream.feed_eof()
    assert [line async for line in read_lines(stream)] == lines
