"""A chat's answer as a response: the whole object, and the events of its stream in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.domain import Event, Json
from gateway.errors import GatewayError
from gateway.wire.openai import encode_json
from gateway.wire.responses.asked import Asked
from gateway.wire.responses.native import renamed
from gateway.wire.responses.output import PREFIXES, Output
from gateway.wire.said import Piece, detail, finish, pieces
from gateway.wire.sse import encode_named

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a chat ended, where its answer is not all that it was to be."""


@dataclass(slots=True)
class ResponseAnswer:
    """`number` is unique: the ids of the response and its items hold it."""

    asked: Asked
    number: str
    wall: Callable[[], float]  # Unix seconds
    status: str = "in_progress"
    error: dict[str, Any] | None = None
    incomplete: str | None = None  # why
    usage: dict[str, Any] | None = None
    tier: str | None = None  # in which the endpoint says that it answered
    created: int = field(init=False)
    completed: int | None = None
    _outputs: list[Output] = field(default_factory=list)
    _calls: dict[int, Output] = field(default_factory=dict)
    _open: list[Output] = field(default_factory=list)
    _sent: int = 0
    _native: dict[str, Any] | None = None  # as the endpoint tells it, where it speaks responses

    def __post_init__(self) -> None:
        self.created = int(self.wall())

    @property
    def id(self) -> str:
        return f"resp_{self.number}"

    # What the exchange calls.

    def piece(self, event: Event) -> bytes:
        if event.native is None:
            return self._written([*self._begun(), *self._take(event)])
        # OpenAI's SDK raises from a stream that begins with anything else.
        missed = [] if event.native.get("type") == "response.created" else [*self._begun()]
        return self._written(missed) + self._passed(event, event.native)

    def end(self) -> bytes:
        if self._native is not None:
            return self._written([self._state(f"response.{self.status}")])
        return self._written([*self._begun(), *self._end(), self._state(f"response.{self.status}")])

    def broken(self, error: GatewayError) -> bytes:
        begun = [] if self._native is not None else [*self._begun()]
        self.fail(error)
        return self._written([*begun, self._state("response.failed")])

    def whole(self, event: Event) -> bytes:
        if event.native is not None:
            self._passed(event, event.native)
            return encode_json(self.object())
        for _ in (*self._take(event), *self._end()):
            pass  # nobody sees the events
        return encode_json(self.object())

    # What it has come to.

    def fail(self, error: GatewayError) -> None:
        self.status = "failed"
        self.error = {"code": error.code or "server_error", "message": error.message}

    def object(self) -> dict[str, Any]:
        if self._native is not None:
            failed = {"status": self.status, "error": self.error} if self.error else {}
            return {**self._native, **failed}
        told = "completed" if self.status == "completed" else "incomplete"
        output = [
            output.item(told if self.status == "completed" or output in self._open else "completed")
            for output in self._outputs
        ]
        incomplete = None if self.incomplete is None else {"reason": self.incomplete}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": self.completed,
            "status": self.status,
            "error": self.error,
            "incomplete_details": incomplete,
            **_echoed(self.asked),
            "service_tier": self.tier or self.asked.body.get("service_tier") or "default",
            "output": output,
            "usage": self.usage,
        }

    # How it comes.

    def _passed(self, event: Event, native: dict[str, Any]) -> bytes:
        """An endpoint's own event, with our names. Its last one waits: see `end`."""
        told = renamed(native, self.number, self._ours())
        if isinstance(response := told.get("response"), dict):
            self._native = response
        if event.finishes:
            self.status = str(response["status"]) if response else "completed"
            return b""
        return self._written([told])

    def _ours(self) -> dict[str, Any]:
        """What of a response the endpoint does not know."""
        echoed = _echoed(self.asked)
        names = ("model", "previous_response_id", "background", "metadata", "store")
        return {"id": self.id, "created_at": self.created, **{n: echoed[n] for n in names}}

    def _begun(self) -> Iterator[dict[str, Any]]:
        if self._sent == 0:
            yield self._state("response.created")
            yield self._state("response.in_progress")

    def _take(self, event: Event) -> Iterator[dict[str, Any]]:
        if isinstance(usage := event.payload.get("usage"), dict):
            self.usage = told_usage(usage)
        if isinstance(tier := event.payload.get("service_tier"), str):
            self.tier = tier
        for piece in pieces(event):
            output, events = self._output(piece)
            yield from events
            yield from output.add(piece)
        if (reason := finish(event)) is not None:
            self.incomplete = INCOMPLETE.get(reason)

    def _output(self, piece: Piece) -> tuple[Output, Iterable[dict[str, Any]]]:
        """The item that the piece belongs to, and what is to be said before it. Calls may come
        side by side: they are open until the end."""
        if piece.kind == "call":
            output = self._calls.get(piece.call)
        else:
            output = next((one for one in self._open if one.kind == piece.kind), None)
        if output is not None:
            return output, ()
        ended = [one for one in self._open if one.kind != "call"]
        self._open = [one for one in self._open if one.kind == "call"]
        output = self._new(piece)
        done = [event for one in ended for event in one.end("completed")]
        return output, [*done, *output.begin()]

    def _new(self, piece: Piece) -> Output:
        index = len(self._outputs)
        output = Output(
            piece.kind,
            index,
            f"{PREFIXES[piece.kind]}_{self.number}{index:04x}",
            summarised=piece.kind == "thought" and self.asked.summarised,
            call_id=piece.id or f"call_{self.number}{index:04x}",
            name=piece.name or "",
        )
        self._outputs.append(output)
        self._open.append(output)
        if piece.kind == "call":
            self._calls[piece.call] = output
        return output

    def _end(self) -> Iterator[dict[str, Any]]:
        self.status = "completed" if self.incomplete is None else "incomplete"
        if self.status == "completed":
            self.completed = int(self.wall())
        for output in self._open:
            yield from output.end(self.status)
        if self.status == "completed":
            self._open.clear()

    def _state(self, kind: str) -> dict[str, Any]:
        return {"type": kind, "response": self.object()}

    def _written(self, events: Iterable[dict[str, Any]]) -> bytes:
        written = []
        for event in events:
            numbered = {**event, "sequence_number": self._sent}
            written.append(encode_named(event["type"], encode_json(numbered)))
            self._sent += 1
        return b"".join(written)


DEFAULTS = (
    *(("temperature", 1.0), ("top_p", 1.0)),
    *(("presence_penalty", 0.0), ("frequency_penalty", 0.0)),
)
UNSAID = {"description": None, "parameters": None, "strict": None}
"""Of a tool."""


def told_usage(usage: Json) -> dict[str, Any]:
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": detail(usage, "prompt_tokens_details", "cached_tokens"),
            "cache_write_tokens": detail(usage, "prompt_tokens_details", "cache_write_tokens"),
        },
        "output_tokens": completion,
        "output_tokens_details": {
            "reasoning_tokens": detail(usage, "completion_tokens_details", "reasoning_tokens")
        },
        "total_tokens": prompt + completion,
    }


def _echoed(asked: Asked) -> dict[str, Any]:
    """The request in the response; where it said nothing, what the API's description says."""
    body = asked.body
    reasoning, text = body.get("reasoning") or {}, body.get("text") or {}
    same = (
        *("instructions", "max_output_tokens", "max_tool_calls", "model", "previous_response_id"),
        *("prompt_cache_key", "safety_identifier", "user"),
    )
    return {
        **{name: body.get(name) for name in same},
        **{name: default if body.get(name) is None else body[name] for name, default in DEFAULTS},
        "background": bool(body.get("background")),
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "store": asked.stored,
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [{**UNSAID, **tool} for tool in body.get("tools") or ()],
        "top_logprobs": body.get("top_logprobs") or 0,
        "truncation": "disabled",
    }
