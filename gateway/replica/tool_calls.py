"""Calls of tools, read from an answer's text while it comes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Set

from gateway.replica.speech import CallPiece, Said, trailing
from gateway.replica.tool_formats import ToolFormat

_ASIDE = r'(?:"(?:type|id)"\s*:\s*"[^"\\]*"\s*,\s*)*'
_HEAD = re.compile(
    rf'\{{\s*{_ASIDE}"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*{_ASIDE}'
    r'"(?:arguments|parameters)"\s*:\s*'
)
"""What stands before a call's arguments."""


class Calling:
    """A `Speech` of text and calls. Blanks around calls are left out.

    Text that only looks like a call stays text: what is no such object, or names a tool that was
    not offered. Once the name is told and the arguments have begun there is no way back: what
    follows is theirs until their brace closes. Where an answer was cut nobody knows what it would
    have been: what had to be a call, or stood where calls are written, is left out.
    """

    thinking = False

    def __init__(self, form: ToolFormat, names: Set[str], forced: bool = False) -> None:
        self._form = form
        self._names = names
        self._forced = forced  # all of it is calls
        self._read: Callable[[], Said] = self._read_text
        self._rest = ""  # not read yet
        self._fresh = True  # nothing but blanks since the beginning or the last calls
        self._marked = False  # this section of calls, or the last, was opened by a mark
        self._section = ""  # read since the calls' opening, or since the last of them
        self._calls = 0
        self._before = 0  # calls before this section
        self._call: _Call | None = None

    def push(self, text: str) -> Said:
        self._rest += text
        said, goes_on = Said(), True
        while self._rest and goes_on:
            left, reader = self._rest, self._read
            said += self._read()
            goes_on = self._rest != left or self._read != reader
        return said

    def finish(self, whole: bool = True) -> Said:
        if not whole and (self._forced or self._calling):
            return Said()
        told = Said()
        unread = self._call is not None and self._call.index is None
        if unread or (self._read == self._read_between and self._calls == self._before):
            told = self._as_text()
        rest, self._rest = self._rest, ""
        between = self._read != self._read_text  # a mark that was cut
        blank = self._calls and self._fresh and not rest.strip()
        return told + Said(text="" if between or blank else rest)

    @property
    def _calling(self) -> bool:
        """A mark or a call says so; an object without one may as well be the answer."""
        certain = self._marked or self._calls > self._before
        return certain and self._read != self._read_text

    def _read_text(self) -> Said:
        """Up to where a section of calls opens."""
        form = self._form
        if self._fresh:
            blank = self._rest.lstrip()
            if self._calls:
                self._rest = blank
            elif form.bare and blank.startswith("{"):
                self._open("")
                return Said()
        before, opening, after = self._rest.partition(form.opening)
        if opening:
            told = before.rstrip()
            self._open(before[len(told) :] + opening)
            self._rest = after
        else:
            certain = len(before) - trailing(before, (form.opening,))
            told, self._rest = before[:certain], before[certain:]
        self._fresh = self._fresh and not told
        return Said(text=told)

    def _read_between(self) -> Said:
        """What stands before, between and after a section's calls."""
        closing, some = self._form.closing, self._calls > self._before
        rest = self._rest.lstrip(self._form.skipped)
        self._section += self._rest[: len(self._rest) - len(rest)]
        self._rest = rest
        if rest.startswith("{"):
            self._call = _Call(self._names)
            self._read = self._read_call
        elif some and closing and rest.startswith(closing):
            self._rest = rest.removeprefix(closing)
            self._read, self._fresh = self._read_text, True
        elif not (some and closing.startswith(rest)) and rest:
            return self._as_text()
        return Said()

    def _read_call(self) -> Said:
        call = self._call
        assert call is not None
        read = call.read(self._rest)
        if call.index is None:  # else it is certain, and never becomes text again
            self._section += self._rest[:read]
        self._rest = self._rest[read:]
        if call.refused:
            return self._as_text()
        pieces: tuple[CallPiece, ...] = ()
        if call.name is not None:
            if call.index is None:
                call.index, self._calls = self._calls, self._calls + 1
                pieces = (CallPiece(call.index, "", self._form.new_id(), call.name),)
            if call.arguments:
                pieces += (CallPiece(call.index, call.arguments),)
                call.arguments = ""
        if call.ended:
            self._call, self._section = None, ""
            self._read = self._read_between
        return Said(calls=pieces)

    def _open(self, section: str) -> None:
        self._section, self._before, self._marked = section, self._calls, bool(section)
        self._read = self._read_between

    def _as_text(self) -> Said:
        """What was taken for calls, since the last one, is none."""
        text, self._section, self._call = self._section, "", None
        self._read, self._fresh = self._read_text, False
        return Said(text=text)


class _Call:
    """One object, read character by character from its brace on."""

    def __init__(self, names: Set[str]) -> None:
        self.index: int | None = None  # once it was told
        self.name: str | None = None  # once it is certain
        self.arguments = ""  # read and not told yet
        self.refused = False
        self.ended = False
        self._names = names
        self._object = ""  # until the name is certain
        self._depth = 0
        self._quoted = self._escaped = False
        self._in_arguments = False

    def read(self, text: str) -> int:
        """How many characters were the object's."""
        for count, character in enumerate(text, 1):
            self._take(character)
            if self.ended or self.refused:
                return count
        return len(text)

    def _take(self, character: str) -> None:
        closes = False
        if self._quoted:
            self._quoted = self._escaped or character != '"'
            self._escaped = not self._escaped and character == "\\"
        elif character == '"':
            self._quoted = True
        elif character in "{[":
            if self.name is None and self._depth == 1 and character == "{":
                self._begin_arguments()
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            closes = True
        if self._in_arguments:
            self.arguments += character
            self._in_arguments = not (closes and self._depth == 1)
        elif self.name is None:
            self._object += character
        if closes and self._depth == 0:
            if self.name is None:
                self._read_whole()
            self.ended = True

    def _begin_arguments(self) -> None:
        head = _HEAD.fullmatch(self._object)
        if head is not None:
            self._named(_loads(head[1]))
            self._in_arguments = True

    def _read_whole(self) -> None:
        """An object whose parts stand in another order, or that has no arguments."""
        call = _loads(self._object)
        if isinstance(call, dict) and isinstance(call.get("function"), dict):
            call = call["function"]
        if not isinstance(call, dict):
            self.refused = True
            return
        arguments = call.get("arguments", call.get("parameters", {}))
        self.arguments = arguments if isinstance(arguments, str) else json.dumps(arguments)
        self._named(call.get("name"))

    def _named(self, name: object) -> None:
        if isinstance(name, str) and name in self._names:
            self.name = name
        else:
            self.refused = True


def _loads(text: str) -> object:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
