"""What a chat's event adds to its answer, for APIs that tell an answer in parts.

Of its first choice: these APIs know no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from gateway.domain import Event, Json
from gateway.errors import UpstreamBroken

Kind = Literal["thought", "text", "refusal", "call"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one part. A call's is its arguments; its id and name come with its first piece."""

    kind: Kind
    text: str
    call: int = 0  # which of the answer's calls
    id: str | None = None
    name: str | None = None
    logprobs: tuple[Json, ...] = ()


_TEXTS: tuple[tuple[str, Kind], ...] = (
    ("reasoning_content", "thought"),
    ("content", "text"),
    ("refusal", "refusal"),
)


def pieces(event: Event) -> Iterator[Piece]:
    """Raises UpstreamBroken."""
    for choice in _first(event):
        said = choice.get("delta") or choice.get("message") or {}
        for name, kind in _TEXTS:
            if isinstance(text := said.get(name), str) and text:
                logprobs = _logprobs(choice) if kind == "text" else ()
                yield Piece(kind, text, logprobs=logprobs)
        for index, call in enumerate(said.get("tool_calls") or ()):
            yield _call(call, index)


def _call(call: Any, index: int) -> Piece:
    function = (call.get("function") or {}) if isinstance(call, dict) else None
    arguments = (function.get("arguments") or "") if isinstance(function, dict) else None
    if function is None or not isinstance(arguments, str):
        raise UpstreamBroken("the endpoint called a tool in a way that makes no sense")
    which = call.get("index")
    return Piece(
        "call", arguments, index if which is None else which, call.get("id"), function.get("name")
    )


def finish(event: Event) -> str | None:
    """Why the answer ended, with the event that says so."""
    reason = next((choice.get("finish_reason") for choice in _first(event)), None)
    return reason if isinstance(reason, str) else None


def stopped_by(event: Event) -> str | None:
    """The stop sequence, where the engine tells it: vLLM's and SGLang's names."""
    for choice in _first(event):
        for name in ("stop_reason", "matched_stop"):
            if isinstance(text := choice.get(name), str):
                return text
    return None


def detail(usage: Any, group: str, name: str) -> int:
    """Of a chat's usage; 0 where it was not told, for APIs whose usage has no gaps."""
    details = usage.get(group) if isinstance(usage, dict) else None
    value = details.get(name) if isinstance(details, dict) else None
    return value if type(value) is int and value >= 0 else 0


def _first(event: Event) -> Iterator[dict[str, Any]]:
    return (c for c in event.payload["choices"] if c.get("index") in (None, 0))


def _logprobs(choice: Json) -> tuple[Json, ...]:
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    return tuple(content) if isinstance(content, list) else ()
