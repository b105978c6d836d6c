"""How the text of one request's answers is to be read: with thoughts, with calls, or as it is."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from gateway.replica.speech import CLOSE, OPEN, Plain, Speech, Thinking, Thoughtful
from gateway.replica.text import Tokenizer
from gateway.replica.tool_calls import Calling
from gateway.replica.tool_formats import HERMES, ToolFormat


@dataclass(frozen=True, slots=True)
class Manner:
    thinking: Thinking = Thinking.NEVER
    form: ToolFormat = HERMES
    callable: frozenset[str] = frozenset()  # names of tools
    forced: bool = False  # an answer is calls, and no text

    def speech(self) -> Speech:
        """For one choice."""
        said = Calling(self.form, self.callable, self.forced) if self.callable else Plain()
        return said if self.thinking is Thinking.NEVER else Thoughtful(self.thinking, said)

    def written(self, tokenizer: Tokenizer) -> Set[int]:
        """The control tokens that are marks, so that they must be seen in the text."""
        marks: set[str] = set()
        if self.callable:
            marks |= {self.form.opening, self.form.closing}
        if self.thinking is not Thinking.NEVER:
            marks |= {OPEN, CLOSE}
        return {tokenizer.controls[mark] for mark in marks if mark in tokenizer.controls}


PLAIN = Manner()
