"""One answer: what it says, and how far it has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.emulator.asked import Asked, first_tool
from gateway.emulator.text import natural_length, word
from gateway.emulator.tokens import tokens

REASONING_TOKENS = 6

LONGEST = 100_000
"""Tokens of an answer that is told to go on until its limit."""


@dataclass(frozen=True, slots=True)
class Choice:
    pieces: Sequence[str]  # a token each, of the text or of the tool call's arguments
    finish: str  # stop, length or tool_calls
    tool: str | None = None  # its name
    reasoning: Sequence[str] = ()

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def token_count(self) -> int:
        return len(self.pieces) + len(self.reasoning)


@dataclass(slots=True)
class Run:
    number: int
    account: str
    asked: Asked
    choices: Sequence[Choice]
    prompt_tokens: int
    created: int  # unix seconds
    tier: str = "default"
    cached_tokens: int = 0
    replica: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    began: bool = False  # to be computed
    produced: list[int] = field(default_factory=list)  # tokens of each choice so far
    finished: bool = False
    settled: bool = False

    @property
    def id(self) -> str:
        return f"emulated-{self.number}"

    @property
    def completion_tokens(self) -> int:
        return sum(self.produced)

    @property
    def wanted_tokens(self) -> int:
        return sum(choice.token_count for choice in self.choices)

    @property
    def reasoning_tokens(self) -> int:
        return sum(len(choice.reasoning) for choice in self.choices)


def choices(asked: Asked, seed: int, *, tool_call: bool) -> list[Choice]:
    if asked.inputs:
        return []
    tool = asked.tool or (first_tool(asked.body) if tool_call else None)
    return [_choice(asked, seed, index, tool) for index in range(asked.n)]


def _choice(asked: Asked, seed: int, index: int, tool: tuple[str, str] | None) -> Choice:
    conversation = asked.conversation + (f"#{index}" if index else "")
    if tool is not None:
        return Choice(tokens(tool[1]), "tool_calls", tool[0])
    limit = asked.max_tokens
    reasoning: list[str] = []
    if asked.body.get("reasoning_effort") not in (None, "none", False) and not asked.begun:
        reasoning = [word(seed, f"{conversation}?", i) for i in range(REASONING_TOKENS)][:limit]
        limit = limit if limit is None else limit - len(reasoning)
    pieces, finish = _pieces(asked, seed, conversation), "stop"
    if limit is not None and len(pieces) > limit:
        pieces, finish = pieces[:limit], "length"
    if stopped := _stopped(pieces, asked.stop):
        pieces, finish = stopped
    return Choice(pieces, finish, reasoning=reasoning)


def _pieces(asked: Asked, seed: int, conversation: str) -> list[str]:
    if asked.json_text is not None:
        return tokens(asked.json_text)
    length = natural_length(seed, conversation)
    if asked.body.get("ignore_eos") and asked.max_tokens:
        length = min(asked.max_tokens, LONGEST)
    begun = len(tokens(asked.begun))
    return [word(seed, conversation, i) for i in range(begun, max(begun, length))]


def _stopped(pieces: Sequence[str], stop: Sequence[str]) -> tuple[list[str], str] | None:
    """Cut before the first stop sequence, in the middle of a piece where it must be."""
    text = "".join(pieces)
    found = [at for s in stop if s and (at := text.find(s)) >= 0]
    if not found:
        return None
    kept: list[str] = []
    left = min(found)
    for piece in pieces:
        if left <= 0:
            break
        kept.append(piece[:left])
        left -= len(piece)
    return kept, "stop"
