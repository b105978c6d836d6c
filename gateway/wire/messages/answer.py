"""A chat's answer as a message: whole, and as the events of its stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.domain import Event, Json
from gateway.errors import GatewayError, UpstreamBroken
from gateway.wire.openai import encode_json
from gateway.wire.said import Piece, detail, finish, pieces, stopped_by
from gateway.wire.sse import encode_named

STOPS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}

DELTAS = {"thought": "thinking", "text": "text", "refusal": "text", "call": "partial_json"}
"""What a block's delta calls its text."""

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Statuses -> Anthropic's types; all others are api_error."""


def error_body(error: GatewayError, request_id: str) -> bytes:
    told = {"type": KINDS.get(error.status, "api_error"), "message": error.message}
    return encode_json({"type": "error", "error": told, "request_id": request_id})


@dataclass(slots=True)
class Block:
    kind: str
    call: int
    id: str
    name: str
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def holds(self, piece: Piece) -> bool:
        return piece.kind == self.kind and piece.call == self.call

    def shown(self, *, begun: bool = False, cut: bool = False) -> dict[str, Any]:
        """`begun`: with nothing in it yet; `cut`: the answer may have ended within it. Raises
        UpstreamBroken."""
        text = "" if begun else self.text
        match self.kind:
            case "call":
                called = {"type": "tool_use", "id": self.id, "name": self.name}
                return {**called, "input": _input(text, cut)}
            case "thought":
                return {"type": "thinking", "thinking": text, "signature": ""}
        return {"type": "text", "text": text}


@dataclass(slots=True)
class MessageAnswer:
    model: str
    number: str  # unique
    stops: tuple[str, ...]  # the caller's sequences
    request_id: str
    _blocks: list[Block] = field(default_factory=list)
    _waiting: list[Piece] = field(default_factory=list)
    _open: Block | None = None
    _begun: bool = False
    _reason: str | None = None
    _sequence: str | None = None
    _usage: Json = field(default_factory=dict)

    # What the exchange calls.

    def piece(self, event: Event) -> bytes:
        return _written([*self._start(), *self._take(event)])

    def end(self) -> bytes:
        last = {"type": "message_delta", "delta": self._ending(), "usage": self._told()}
        return _written(
            [
                *self._start(),
                *self._write(over=True),
                *self._close(),
                last,
                {"type": "message_stop"},
            ]
        )

    def broken(self, error: GatewayError) -> bytes:
        return encode_named("error", error_body(error, self.request_id))

    def whole(self, event: Event) -> bytes:
        for _ in (*self._take(event), *self._write(over=True)):
            pass  # nobody sees the events
        content = [block.shown(cut=self._cut) for block in self._blocks]
        return encode_json({**self._message(), "content": content, **self._ending()})

    # How it comes.

    def _start(self) -> Iterator[dict[str, Any]]:
        if not self._begun:
            self._begun = True
            yield {"type": "message_start", "message": self._message()}
            yield {"type": "ping"}

    def _take(self, event: Event) -> Iterator[dict[str, Any]]:
        if isinstance(usage := event.payload.get("usage"), dict):
            self._usage = usage
        self._waiting += pieces(event)
        yield from self._write(over=False)
        if (reason := finish(event)) is not None:
            self._reason, by = reason, stopped_by(event)
            self._sequence = by if by in self.stops else None

    def _write(self, *, over: bool) -> Iterator[dict[str, Any]]:
        """One block after the other: what comes of a call while another is unfinished waits."""
        while self._waiting:
            block = self._open
            at = next((i for i, p in enumerate(self._waiting) if block and block.holds(p)), None)
            if block is not None and at is not None:
                text = self._waiting.pop(at).text
                block.texts.append(text)
                if text:
                    yield self._delta(block, text)
                continue
            if (
                not over
                and block is not None
                and block.kind == "call"
                and not _is_whole(block.text)
            ):
                return
            yield from self._close()
            yield from self._new(self._waiting[0])

    def _new(self, piece: Piece) -> Iterator[dict[str, Any]]:
        index = len(self._blocks)
        id = piece.id or f"toolu_{self.number}{index:04x}"
        self._open = Block(piece.kind, piece.call, id, piece.name or "")
        self._blocks.append(self._open)
        shown = self._open.shown(begun=True)
        yield {"type": "content_block_start", "index": index, "content_block": shown}

    def _delta(self, block: Block, text: str) -> dict[str, Any]:
        name = DELTAS[block.kind]
        kind = "input_json_delta" if block.kind == "call" else f"{name}_delta"
        index = len(self._blocks) - 1
        delta = {"type": kind, name: text}
        return {"type": "content_block_delta", "index": index, "delta": delta}

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open is not None:
            yield {"type": "content_block_stop", "index": len(self._blocks) - 1}
        self._open = None

    def _message(self) -> dict[str, Any]:
        return {
            "id": f"msg_{self.number}",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._told(),
        }

    @property
    def _cut(self) -> bool:
        """It ended where the model would have gone on. Most endpoints do not tell a sequence of the
        caller's from the model's own end."""
        return (
            self._reason in ("length", "content_filter")
            or self._sequence is not None
            or (self._reason == "stop" and bool(self.stops))
        )

    def _ending(self) -> dict[str, Any]:
        reason = STOPS.get(self._reason or "", "end_turn")
        if self._sequence is not None:
            reason = "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": self._sequence}

    def _told(self) -> dict[str, Any]:
        """Anthropic counts what came from a cache apart from the rest of the input."""
        cached = detail(self._usage, "prompt_tokens_details", "cached_tokens")
        return {
            "input_tokens": max(0, (self._usage.get("prompt_tokens") or 0) - cached),
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": self._usage.get("completion_tokens") or 0,
        }


def _written(events: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(encode_named(event["type"], encode_json(event)) for event in events)


def _is_whole(arguments: str) -> bool:
    """Where there are none, some may still come: calls may all be named first."""
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def _input(text: str, cut: bool) -> dict[str, Any]:
    """A call that was cut has none rather than one that is made up."""
    try:
        given = json.loads(text or "{}")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        if cut:
            return {}
        raise UpstreamBroken("the endpoint called a tool with what is no JSON object")
    return given
