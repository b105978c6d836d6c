"""One answer's tokens, turned into text as they come."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence, Set

from gateway.replica.text import Tokenizer


class TextStream:
    """For one thread. Every piece holds whole characters, and no piece holds text that may turn
    out to be the beginning of a stop string.

    A stop string is left out unless `include_stop`, and what follows it always. The text of the
    first `min_tokens` tokens is not searched for one. Control tokens add no text, but for those
    that are to be `written` by their names.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        *,
        include_stop: bool = False,
        min_tokens: int = 0,
        written: Set[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._unsearched = min_tokens
        self._written = written
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.length = 0  # characters so far, the held ones included
        self.stopped_by: str | None = None  # the stop string that was met

    def push(self, token: int) -> str:
        """The text that is certain now, often none."""
        if self.stopped_by is not None:
            return ""
        tell = self._tokenizer.written if token in self._written else self._tokenizer.bytes_of
        new = self._decoder.decode(tell(token))
        self.length += len(new)
        if self._unsearched:
            self._unsearched -= 1
            return new
        text = self._held + new
        # The one that is complete first, however the tokens cut the text; then the longest.
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            end, start = min(found)
            self.stopped_by = text[start:end]
            return text[: end if self._include_stop else start]
        certain = len(text) - begun(text, self._stop)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """What was held back. A character that was never completed is left out."""
        held, self._held = self._held, ""
        return held


def begun(text: str, marks: Collection[str]) -> int:
    """Length of the longest end of the text that begins one of the marks, and is not all of it."""
    longest = max(map(len, marks), default=1)
    for size in range(min(len(text), longest - 1), 0, -1):
        end = text[-size:]
        if any(mark.startswith(end) for mark in marks):
            return size
    return 0
