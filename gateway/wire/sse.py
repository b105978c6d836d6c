"""Server-sent events, bytes in, data out (WHATWG HTML, §9.2.6). No I/O."""

from __future__ import annotations

MAX_EVENT = 8 * 1024 * 1024
"""Bytes of one event. A tool call of some hundred kilobytes is real; an endless line is not."""


class EventTooLarge(ValueError):
    """An event that does not end."""


class EventDecoder:
    """Takes the stream as it arrives, in any pieces, and gives each event's data once.

    Comments (keep-alives) and events without data are swallowed. Event names and ids are not
    kept: no OpenAI-compatible endpoint puts meaning there.
    """

    __slots__ = ("_data", "_pending")

    def __init__(self) -> None:
        self._pending = b""  # the line that has not ended yet
        self._data: list[bytes] = []  # data lines of the event that has not ended yet

    def feed(self, received: bytes) -> list[bytes]:
        *lines, self._pending = self._lines(self._pending + received)
        if len(self._pending) + sum(map(len, self._data)) > MAX_EVENT:
            raise EventTooLarge(f"an event is larger than {MAX_EVENT} bytes")
        events = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b"data:"):
                value = line[5:].removeprefix(b" ")
                if value:  # an empty data line would crash both OpenAI SDKs
                    self._data.append(value)
        return events

    @staticmethod
    def _lines(buffer: bytes) -> list[bytes]:
        """Split at LF, CR LF and CR; the last item is what has no end yet."""
        if b"\r" not in buffer:
            return buffer.split(b"\n")
        # A CR at the very end may be half of a CR LF: keep it back with its line.
        held = b"\r" if buffer.endswith(b"\r") else b""
        body = buffer.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = body.split(b"\n")
        lines[-1] += held
        return lines


def encode_event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


DONE = b"[DONE]"
