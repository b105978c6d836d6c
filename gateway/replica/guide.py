"""The grammar of one request's answers, where it asks for a form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gateway.replica.grammar import any_json, literal
from gateway.replica.speech import CLOSE, OPEN, Thinking
from gateway.replica.tool_formats import ToolFormat
from gateway.replica.tools import ToolChoice, Tools

_ANY_OBJECT: Mapping[str, object] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Guide:
    """Lark, and the field of the request that asks for it."""

    lark: str
    field: str


def guide(
    tools: Tools,
    schema: Mapping[str, object] | None,
    form: ToolFormat,
    thinking: Thinking,
    mark: Callable[[str], str],
) -> Guide | None:
    """None: the answer may be anything.

    A document where a schema is given, calls where they are required, one of both where tools may
    be called beside a schema; and text with calls where a tool is strict. Thoughts come before it.
    """
    rules: list[str] = []
    forms: list[str] = []
    if schema is not None and tools.choice is not ToolChoice.REQUIRED:
        rules.append(f"document: {any_json(schema)}")
        forms.append("document")
    strict = tools.choice is ToolChoice.AUTO and any(tool.strict for tool in tools.callable)
    if tools.choice is ToolChoice.REQUIRED or strict or (forms and tools.callable):
        able = [
            tool
            if tool.strict or tools.choice is ToolChoice.REQUIRED
            else replace(tool, parameters=_ANY_OBJECT)
            for tool in tools.callable
        ]
        rules += form.rules(able, mark, several=tools.several)
        if strict and not forms:
            rules += form.text_rules(mark)
            forms.append("said")
        else:
            forms.append("calls")
    if not forms:
        return None
    rules.append(f"answer: {' | '.join(forms)}")
    field = "response_format" if forms == ["document"] else "tools"
    return Guide("\n".join([*_thoughts(thinking, mark), *rules]), field)


def _thoughts(thinking: Thinking, mark: Callable[[str], str]) -> list[str]:
    if thinking is Thinking.NEVER:
        return ["start: answer"]
    if mark(CLOSE) == literal(CLOSE):
        rest = ["thought: text BLANKS", f"text[suffix={literal(CLOSE)}]: /(?s:.*)/"]
    else:
        rest = [f"thought: /(?s:.*)/ {mark(CLOSE)} BLANKS"]
    start = "thought" if thinking is Thinking.BEGUN else f"({mark(OPEN)} thought)?"
    return [f"start: {start} answer", *rest, r"BLANKS: /[ \n]{0,2}/"]
