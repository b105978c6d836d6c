"""
How models write their calls of tools: the marks around them, and a grammar that leads to them.

Which way is a model's own is read off its chat template, where calls of earlier turns are written.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.replica.grammar import any_json, literal
from gateway.replica.tools import Tool


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """Calls are JSON objects with a name and arguments, inside marks."""

    opening: str  # before the calls
    closing: str  # after them; empty: there is none
    skipped: str  # what may stand around the calls and says nothing
    head: str = ""  # what a grammar writes after the opening
    tail: str = ""  # and before the closing
    between: str = ", "  # and between calls
    marked: bool = False  # each call has marks of its own
    bare: bool = False  # an answer that begins with an object is a call, marks or not
    arguments: str = "arguments"  # the key
    nine: bool = False  # the template wants ids of nine characters

    def new_id(self) -> str:
        unique = uuid.uuid4().hex
        return unique[:9] if self.nine else f"call_{unique[:24]}"

    def rules(
        self, tools: Sequence[Tool], mark: Callable[[str], str], *, several: bool
    ) -> list[str]:
        """Lark's rules for `calls`, one or several. `mark` writes what may be a control token."""
        opening = _row("" if self.bare else mark(self.opening), _text(self.head))
        closing = _row(_text(self.tail), mark(self.closing) if self.closing else "")
        each = "marked" if self.marked else "call"
        all_calls = _row(each, f"({_text(self.between)} {each})*" if several else "")
        if self.marked:
            rules = [f"calls: {all_calls}", f"marked: {_row(opening, 'call', closing)}"]
        else:
            rules = [f"calls: {_row(opening, all_calls, closing)}"]
        rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(tools))))
        return rules + [f"call_{i}: {self._call(tool)}" for i, tool in enumerate(tools)]

    def text_rules(self, mark: Callable[[str], str]) -> list[str]:
        """Lark's rules for `said`, which is text and calls as the model likes."""
        if self.bare:
            return ["said: calls | OTHER", r"OTHER: /\s*([^{\s](?s:.*))?/"]
        if mark(self.opening) != literal(self.opening):
            plain = "PLAIN: /(?s:.*)/"  # of which control tokens are no part
        else:
            plain = f"PLAIN: /(?s:.*)/ & ~(/(?s:.*)/ {literal(self.opening)} /(?s:.*)/)"
        return [plain, "said: (PLAIN calls)* PLAIN"]

    def _call(self, tool: Tool) -> str:
        head = f'{{"name": {json.dumps(tool.name)}, "{self.arguments}": '
        return _row(literal(head), any_json(tool.parameters), literal("}"))


def _row(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _text(text: str) -> str:
    return literal(text) if text else ""


_BLANKS = " \t\r\n"

HERMES = ToolFormat(
    "<tool_call>", "</tool_call>", _BLANKS, head="\n", tail="\n", between="\n", marked=True
)
"""Of Hermes, and of Qwen 2.5 and 3."""

MISTRAL = ToolFormat("[TOOL_CALLS]", "]", _BLANKS + "[,", head="[", nine=True)

LLAMA3 = ToolFormat(
    "<|python_tag|>", "", _BLANKS + ";", between="; ", bare=True, arguments="parameters"
)

FORMATS = (MISTRAL, HERMES, LLAMA3)
"""In the order in which templates are searched for their marks."""


def format_of(template: str) -> ToolFormat:
    """The one whose opening the template writes; Hermes', which is the commonest, if none."""
    return next((form for form in FORMATS if form.opening in template), HERMES)
