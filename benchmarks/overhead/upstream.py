"""An endpoint that costs next to nothing: PORT. Standard library and uvloop, no HTTP library.

What it does with a request stands in the request's text, which every gateway passes on:
`events=67 gap=0.02 hold=none` streams so many events, so many seconds apart; `hold=headers` waits
without end before the response's head, `hold=first` after it, `hold=middle` after three events.
Without it, a plain answer comes at once, to whoever delivers spans too. `GET /seen` tells when the
others hung up.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

import uvloop

MODEL = "theirs"  # the clients' name is another, so that a gateway must write both
ASKED = re.compile(rb"events=(\d+) gap=([0-9.]+) hold=(\w+)")
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(payload: object) -> bytes:
    return chunked(b"data: " + json.dumps(payload).encode() + b"\n\n")


def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    return event({**head, "choices": [choice]})


def answer(body: object, status: bytes = b"200 OK") -> bytes:
    raw = json.dumps(body).encode()
    return (b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b") % (
        status,
        len(raw),
        raw,
    )


USAGE = {"prompt_tokens": 20, "completion_tokens": 40, "total_tokens": 60}
WHOLE = answer(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello, how can I help you? " * 6},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
)
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
TOKENS = [chunk({"content": f" token{number}"}) for number in range(2000)]
END = (
    chunk({}, "stop")
    + event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL,
             "choices": [], "usage": USAGE})
    + chunked(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)  # fmt: skip
HANG_UPS: list[float] = []
"""When a connection closed while its answer was not whole; monotonic, seconds."""


class Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._received = b""
        self._answering: asyncio.Task[None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answering is not None and not self._answering.done():
            HANG_UPS.append(time.monotonic())
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end]
            length = LENGTH.search(head)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < size:
                return
            body, self._received = self._received[end + 4 : size], self._received[size:]
            self._serve(head, body)

    def _serve(self, head: bytes, body: bytes) -> None:
        if asked := ASKED.search(body):
            events, gap, hold = int(asked[1]), float(asked[2]), asked[3].decode()
            self._answering = asyncio.get_running_loop().create_task(
                self._stream(events, gap, hold)
            )
        elif head.startswith(b"POST"):
            self._transport.write(WHOLE)
        elif head.startswith(b"GET /seen"):
            self._transport.write(answer(HANG_UPS))
        else:  # whatever a router asks of its workers before it trusts them
            model = {"id": MODEL, "object": "model", "created": 1, "owned_by": "nobody"}
            self._transport.write(answer({"object": "list", "data": [model]}))

    async def _stream(self, events: int, gap: float, hold: str) -> None:
        await self._hold(hold == "headers")
        self._transport.write(HEAD)
        await self._hold(hold == "first")
        self._transport.write(chunk({"role": "assistant", "content": ""}))
        for number in range(events - 2):
            await asyncio.sleep(gap)
            self._transport.write(TOKENS[number])
            await self._hold(hold == "middle" and number == 2)
        await asyncio.sleep(gap)
        self._transport.write(END)

    async def _hold(self, held: bool) -> None:
        if held:
            await asyncio.Event().wait()


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
