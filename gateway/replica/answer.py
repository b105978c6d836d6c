"""The bytes of a replica's answers: OpenAI's objects, and their server-sent events. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.domain import Operation, ReplicaReport
from gateway.errors import GatewayError
from gateway.replica.request import Counts, Finish

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What every piece of one answer repeats."""

    operation: Operation
    id: str
    created: int  # seconds since the epoch
    model: str
    include_usage: bool  # every streamed piece then has a `usage`, null but in the last

    def whole(
        self, text: str, finish: Finish, counts: Counts, report: ReplicaReport | None
    ) -> bytes:
        if self.operation is Operation.CHAT:
            kind = "chat.completion"
            said: Mapping[str, object] = {
                "message": {"role": "assistant", "content": text, "refusal": None}
            }
        else:
            kind = "text_completion"
            said = {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish.value}
        last = _with_report({"usage": _usage(counts)}, report)
        return json.dumps({**self._head(kind), "choices": [choice], **last}).encode()

    def first(self) -> bytes:
        """The chunk that names the speaker of a chat; completions have none."""
        if self.operation is Operation.COMPLETION:
            return b""
        return self._chunk({"delta": {"role": "assistant", "content": ""}})

    def piece(self, text: str) -> bytes:
        if self.operation is Operation.COMPLETION:
            return self._chunk({"text": text})
        return self._chunk({"delta": {"content": text}})

    def last(self, finish: Finish, counts: Counts, report: ReplicaReport | None) -> bytes:
        """The chunk with the finish reason, the one with the usage if it was asked for, the end."""
        is_chat = self.operation is Operation.CHAT
        said: Mapping[str, object] = {"delta": {}} if is_chat else {"text": ""}
        end = self._chunk(said, finish.value)
        if self.include_usage:
            last = _with_report({"choices": [], "usage": _usage(counts)}, report)
            end += event({**self._head(self._chunk_kind), **last})
        return end + DONE

    @property
    def _chunk_kind(self) -> str:
        is_chat = self.operation is Operation.CHAT
        return "chat.completion.chunk" if is_chat else "text_completion"

    def _chunk(self, said: Mapping[str, object], finish: str | None = None) -> bytes:
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        chunk = {**self._head(self._chunk_kind), "choices": [choice]}
        return event({**chunk, "usage": None} if self.include_usage else chunk)

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


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


def _usage(counts: Counts) -> dict[str, object]:
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
    }
