"""An answer's text, told apart as it comes: what the model thinks, what it says, what it calls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Protocol

from gateway.replica.text_stream import begun

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A part of one tool call; its first has the id and the name."""

    index: int  # of the call in its choice
    arguments: str  # the next part of their JSON
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What became certain at once; thoughts are before text, and calls are in their order."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.text or self.calls)

    def __add__(self, other: Said) -> Said:
        return Said(
            self.text + other.text, self.reasoning + other.reasoning, self.calls + other.calls
        )

    @classmethod
    def joined(cls, parts: Sequence[Said]) -> Said:
        """In place of consecutive ones; each call is in one piece."""
        calls: dict[int, list[CallPiece]] = {}
        for piece in (piece for part in parts for piece in part.calls):
            calls.setdefault(piece.index, []).append(piece)
        return cls(
            text="".join(part.text for part in parts),
            reasoning="".join(part.reasoning for part in parts),
            calls=tuple(
                replace(pieces[0], arguments="".join(piece.arguments for piece in pieces))
                for pieces in calls.values()
            ),
        )


class Speech(Protocol):
    """For one thread. What it has told depends on the text so far, not on how that was cut."""

    @property
    def thinking(self) -> bool: ...

    def push(self, text: str) -> Said: ...

    def finish(self, whole: bool = True) -> Said:
        """What was held back. `whole`: the model ended the answer, and nothing else did."""
        ...


class Plain:
    """All text is what is said."""

    thinking = False

    def push(self, text: str) -> Said:
        return Said(text=text)

    def finish(self, whole: bool = True) -> Said:
        return Said()


class Thinking(Enum):
    """What an answer begins with."""

    NEVER = auto()
    PERHAPS = auto()  # the model may open its thoughts
    BEGUN = auto()  # the prompt has opened them


class Thoughtful:
    """Thoughts, if there are some, and then what another speech makes of the rest.

    Blanks around the marks belong to neither side.
    """

    def __init__(self, thinking: Thinking, rest: Speech) -> None:
        self._thinking = thinking
        self._rest = rest
        self._held = ""
        self._fresh = True  # nothing but blanks since the last mark

    @property
    def thinking(self) -> bool:
        return self._thinking is Thinking.BEGUN

    def push(self, text: str) -> Said:
        text, self._held = self._held + text, ""
        if self._thinking is Thinking.PERHAPS:
            stripped = text.lstrip()
            if OPEN.startswith(stripped):  # or nothing yet
                if stripped == OPEN:
                    self._thinking = Thinking.BEGUN
                else:
                    self._held = text
                return Said()
            if not stripped.startswith(OPEN):
                self._thinking, self._fresh = Thinking.NEVER, False
                return self._rest.push(text)
            self._thinking, text = Thinking.BEGUN, stripped.removeprefix(OPEN)
        if self._thinking is Thinking.BEGUN:
            thought, closed, text = text.partition(CLOSE)
            if not closed:
                certain = len(thought) - trailing(thought, (CLOSE,))
                self._held = thought[certain:]
                return self._thought(thought[:certain])
            told = self._thought(thought.rstrip())
            self._thinking, self._fresh = Thinking.NEVER, True
            return told + self.push(text)
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        return self._rest.push(text)

    def finish(self, whole: bool = True) -> Said:
        held, self._held = self._held, ""
        if self._thinking is Thinking.BEGUN:
            return self._thought(held.rstrip())
        return self._rest.push(held) + self._rest.finish(whole)

    def _thought(self, text: str) -> Said:
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        return Said(reasoning=text)


def trailing(text: str, marks: Collection[str]) -> int:
    """Length of the text's end that may turn out to be blanks and one of these marks."""
    end = begun(text, marks)
    before = text[: len(text) - end]
    return end + len(before) - len(before.rstrip())
