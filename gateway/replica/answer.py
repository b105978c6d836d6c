"""The bytes of a replica's answers: OpenAI's objects, and their server-sent events. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.domain import Operation, ReplicaReport
from gateway.errors import GatewayError
from gateway.replica.choice import Done, Piece
from gateway.replica.logprobs import chat_logprobs, completion_logprobs
from gateway.replica.request import Counts
from gateway.replica.speech import CallPiece, Said
from gateway.replica.text import Tokenizer

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What every piece of one answer repeats."""

    operation: Operation
    id: str
    created: int  # seconds since the epoch
    model: str
    include_usage: bool  # every streamed piece then has a `usage`, null but in the last
    tokenizer: Tokenizer = field(repr=False)
    logprobs: int | None = None  # so many likeliest tokens are told; None: no log-probabilities
    token_ids: bool = False  # each choice has `token_ids`
    echoed: str = field(default="", repr=False)  # the prompt's text, before that of each choice
    begun: bool = False  # a continued answer: its beginning was sent before

    def whole(
        self, choices: Sequence[Piece], counts: Counts, report: ReplicaReport | None
    ) -> bytes:
        is_chat = self.operation is Operation.CHAT
        kind = "chat.completion" if is_chat else "text_completion"
        bodies = []
        for piece in choices:
            said = (
                {"message": _message(piece.said)}
                if is_chat
                else {"text": self._before + piece.said.text}
            )
            bodies.append(self._choice(piece, said))
        thought = sum(piece.end.reasoning_tokens for piece in choices if piece.end is not None)
        last = _with_report({"usage": _usage(counts, thought)}, report)
        return json.dumps({**self._head(kind), "choices": bodies, **last}).encode()

    def first(self, index: int) -> bytes:
        """The chunk that names the speaker of a chat, or has an echoed prompt; often none."""
        if self.operation is Operation.COMPLETION:
            return (
                self._chunk(Piece(index, Said()), {"text": self._before}) if self._before else b""
            )
        if self.begun:
            return b""
        return self._chunk(Piece(index, Said()), {"delta": {"role": "assistant", "content": ""}})

    def piece(self, piece: Piece) -> bytes:
        """One chunk; the choice's last one has its finish reason."""
        if self.operation is Operation.COMPLETION:
            return self._chunk(piece, {"text": piece.said.text})
        return self._chunk(piece, {"delta": _delta(piece.said)})

    def last(
        self, counts: Counts, report: ReplicaReport | None, reasoning_tokens: int = 0
    ) -> bytes:
        """The chunk with the usage if it was asked for, and the end."""
        if not self.include_usage:
            return DONE
        last = _with_report({"choices": [], "usage": _usage(counts, reasoning_tokens)}, report)
        return event({**self._head(self._chunk_kind), **last}) + DONE

    @property
    def _before(self) -> str:
        return "" if self.begun else self.echoed

    @property
    def _chunk_kind(self) -> str:
        is_chat = self.operation is Operation.CHAT
        return "chat.completion.chunk" if is_chat else "text_completion"

    def _chunk(self, piece: Piece, said: Mapping[str, object]) -> bytes:
        chunk = {**self._head(self._chunk_kind), "choices": [self._choice(piece, said)]}
        return event({**chunk, "usage": None} if self.include_usage else chunk)

    def _choice(self, piece: Piece, said: Mapping[str, object]) -> dict[str, object]:
        choice = {"index": piece.index, **said, "logprobs": self._logprobs(piece)}
        ids = {"token_ids": piece.tokens} if self.token_ids else {}
        return {**choice, **_ending(piece.end), **ids}

    def _logprobs(self, piece: Piece) -> dict[str, object] | None:
        if self.logprobs is None:
            return None
        if self.operation is Operation.CHAT:
            return chat_logprobs(piece.scored, self.tokenizer)
        return completion_logprobs(piece.scored, self.tokenizer, self.logprobs)

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _ending(end: Done | None) -> dict[str, object]:
    if end is None:
        return {"finish_reason": None}
    stop = {} if end.stopped_by is None else {"stop_reason": end.stopped_by}  # vLLM's name
    return {"finish_reason": end.reason, **stop}


def _message(said: Said) -> dict[str, object]:
    text = said.text or (None if said.calls or said.reasoning else "")
    message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None}
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    if said.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": _function(call)} for call in said.calls
        ]
    return message


def _delta(said: Said) -> dict[str, object]:
    delta: dict[str, object] = {}
    if said.reasoning:
        delta["reasoning_content"] = said.reasoning
    if said.text:
        delta["content"] = said.text
    if said.calls:
        delta["tool_calls"] = [_call_delta(call) for call in Said.joined([said]).calls]
    return delta


def _call_delta(call: CallPiece) -> dict[str, object]:
    """The id, the type and the name are in a call's first piece alone."""
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    first = {"index": call.index, "id": call.id, "type": "function"}
    return {**first, "function": _function(call)}


def _function(call: CallPiece) -> dict[str, object]:
    return {"name": call.name, "arguments": call.arguments}


def event(payload: Mapping[str, object]) -> bytes:
    """One server-sent event; JSON has no raw line ends, so one `data:` line holds it."""
    return b"data: %s\n\n" % json.dumps(payload, separators=(",", ":")).encode()


def error_event(error: GatewayError) -> bytes:
    """What ends a stream that cannot go on. No [DONE] follows, so that it cannot pass for whole."""
    return event(error.body())


def report_body(report: ReplicaReport) -> dict[str, object]:
    return {
        "epoch": report.epoch,
        "running": report.running,
        "queued_tokens": report.queued_tokens,
        "horizon_age_s": report.horizon_age_s,
    }


def _with_report(last: Mapping[str, object], report: ReplicaReport | None) -> Mapping[str, object]:
    return last if report is None else {**last, "replica": report_body(report)}


def _usage(counts: Counts, reasoning_tokens: int) -> dict[str, object]:
    thought = {"completion_tokens_details": {"reasoning_tokens": reasoning_tokens}}
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
        **(thought if reasoning_tokens else {}),
    }
