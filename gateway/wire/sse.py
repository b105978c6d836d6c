"""Server-sent events, bytes in, data out (WHATWG HTML, §9.2.6). No I/O."""

from __future__ import annotations

from codecs import BOM_UTF8

MAX_EVENT = 8 * 1024 * 1024
"""Bytes of one event. A tool call of some hundred kilobytes is real; an endless line is not."""


class EventTooLarge(ValueError):
    """An event that does not end."""


class EventDecoder:
    """Takes the stream as it arrives, in any pieces, and gives each event's data once.

    Keep-alives (comments, and events called ping) and events without data are swallowed: an empty
    one would crash both OpenAI SDKs. Other names and ids are not kept: what an event called error
    holds is no answer by itself.
    """

    __slots__ = ("_after_cr", "_at_start", "_between", "_data", "_pending", "_ping", "_size")

    def __init__(self) -> None:
        self._at_start = True
        self._after_cr = False  # a LF that comes next belongs to the line that has ended
        self._pending = b""  # the line that has not ended yet
        self._data: list[bytes] = []  # data lines of the event that has not ended yet
        self._size = 0  # bytes of those, with their line ends
        self._ping = False  # the event that has not ended yet is called so
        self._between = False  # what comes next begins an event

    def feed(self, received: bytes) -> list[bytes]:
        """The data of every event that ends with these bytes. Raises EventTooLarge."""
        if (
            self._between
            # Whole events, each of them one line `data: …`: what nearly every piece of a stream is.
            and received.startswith(b"data: ")
            and received.endswith(b"\n\n")
            and b"\r" not in received
            and received.count(b"\n") == 2 * received.count(b"\n\ndata: ") + 2
            and len(received) <= MAX_EVENT
        ):
            return [data for event in received[:-2].split(b"\n\n") if (data := event[6:]).strip()]
        events = []
        for line in self._lines(received):
            self._check_size(line)
            if not line:
                data = b"\n".join(self._data)
                if data.strip() and not self._ping:
                    events.append(data)
                self._data, self._size, self._ping = [], 0, False
            elif line == b"data" or line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
                self._size += len(self._data[-1]) + 1
            elif line.startswith(b"event:"):
                self._ping = line[6:].removeprefix(b" ") == b"ping"
        self._check_size(self._pending)
        within = self._pending or self._data or self._ping or self._after_cr or self._at_start
        self._between = not within
        return events

    def _lines(self, received: bytes) -> list[bytes]:
        """The lines that end with `received`, which may end them with LF, CR LF or CR."""
        if self._after_cr and received:
            self._after_cr = False
            received = received.removeprefix(b"\n")
        if b"\r" in received:
            self._after_cr = received.endswith(b"\r")
            received = received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._pending = (self._pending + received).split(b"\n")
        if lines and self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(BOM_UTF8)
        return lines

    def _check_size(self, line: bytes) -> None:
        if self._size + len(line) > MAX_EVENT:
            raise EventTooLarge(f"an event is larger than {MAX_EVENT} bytes")


def encode_event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def encode_named(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


DONE = b"[DONE]"
