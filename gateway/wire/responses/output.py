"""One item of a response's output: what it is, and the events that tell it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.domain import Json
from gateway.wire.said import Kind, Piece

PREFIXES: dict[Kind, str] = {"thought": "rs", "text": "msg", "refusal": "msg", "call": "fc"}


@dataclass(slots=True)
class Output:
    """Each has one part: what an assistant refuses after a text is a message of its own."""

    kind: Kind
    index: int
    id: str
    summarised: bool = False  # a thought, told as a summary
    call_id: str = ""
    name: str = ""
    texts: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def item(self, status: str) -> dict[str, Any]:
        """`status`: in_progress (nothing in it yet), completed, incomplete."""
        parts = [] if status == "in_progress" else [self._part()]
        head = {"id": self.id, "status": status}
        match self.kind:
            case "thought":
                told = {"summary": parts} if self.summarised else {"summary": [], "content": parts}
                return {**head, "type": "reasoning", **told}
            case "call":
                call = {"call_id": self.call_id, "name": self.name, "arguments": self.text}
                return {**head, "type": "function_call", **call}
        return {**head, "type": "message", "role": "assistant", "content": parts}

    def begin(self) -> Iterator[dict[str, Any]]:
        yield {
            "type": "response.output_item.added",
            "output_index": self.index,
            "item": self.item("in_progress"),
        }
        if self.kind != "call":
            yield self._event(f"{self._part_event}.added", part=self._part())

    def add(self, piece: Piece) -> Iterator[dict[str, Any]]:
        self.texts.append(piece.text)
        self.logprobs.extend(piece.logprobs)
        if piece.text:
            yield self._event(
                f"{self._text_event}.delta", delta=piece.text, logprobs=piece.logprobs
            )

    def end(self, status: str) -> Iterator[dict[str, Any]]:
        name = {"call": "arguments", "refusal": "refusal"}.get(self.kind, "text")
        said: dict[str, Any] = {name: self.text}
        if self.kind == "call":
            said["name"] = self.name
        yield self._event(f"{self._text_event}.done", **said, logprobs=tuple(self.logprobs))
        if self.kind != "call":
            yield self._event(f"{self._part_event}.done", part=self._part())
        yield {
            "type": "response.output_item.done",
            "output_index": self.index,
            "item": self.item(status),
        }

    @property
    def _text_event(self) -> str:
        if self.kind == "thought":
            return f"response.reasoning_{'summary_' if self.summarised else ''}text"
        names = {"text": "output_text", "refusal": "refusal", "call": "function_call_arguments"}
        return f"response.{names[self.kind]}"

    @property
    def _part_event(self) -> str:
        return "response.reasoning_summary_part" if self.summarised else "response.content_part"

    def _part(self) -> dict[str, Any]:
        match self.kind:
            case "thought":
                kind = "summary_text" if self.summarised else "reasoning_text"
                return {"type": kind, "text": self.text}
            case "refusal":
                return {"type": "refusal", "refusal": self.text}
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": list(self.logprobs),
        }

    def _event(
        self, kind: str, *, logprobs: tuple[Json, ...] = (), **fields: Any
    ) -> dict[str, Any]:
        event = {"type": kind, "item_id": self.id, "output_index": self.index}
        if self.kind != "call":
            event["summary_index" if self.summarised else "content_index"] = 0
        if self._text_event == "response.output_text" and "part" not in fields:
            event["logprobs"] = list(logprobs)
        return {**event, **fields}
