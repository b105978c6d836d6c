from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.domain import Operation, ReplicaReport
from gateway.replica.answer import Answer
from gateway.replica.request import Counts, Finish


def events(stream: bytes) -> list[Any]:
    lines = [event.removeprefix(b"data: ") for event in stream.split(b"\n\n")[:-1]]
    return [line if line == b"[DONE]" else json.loads(line) for line in lines]


COUNTS = Counts(prompt_tokens=10, cached_tokens=4, completion_tokens=2)
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 2,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4},
}
REPORT = ReplicaReport(epoch="e", running=1, queued_tokens=3, horizon_age_s=None)
REPORT_BODY = {"epoch": "e", "running": 1, "queued_tokens": 3, "horizon_age_s": None}


def answer(operation: Operation = Operation.CHAT, include_usage: bool = True) -> Answer:
    return Answer(operation, "id-1", 1_700_000_000, "m", include_usage)


def test_a_streamed_chat_names_its_speaker_and_ends_with_its_usage() -> None:
    first, said, finish, usage, done = events(
        answer().first() + answer().piece("hi") + answer().last(Finish.STOP, COUNTS, REPORT)
    )
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert said["choices"][0] == {
        "index": 0,
        "delta": {"content": "hi"},
        "logprobs": None,
        "finish_reason": None,
    }
    assert said["object"] == "chat.completion.chunk"
    assert said["usage"] is None
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"], usage["replica"]) == ([], USAGE, REPORT_BODY)
    assert done == b"[DONE]"


def test_without_include_usage_a_stream_has_none() -> None:
    plain = answer(include_usage=False)
    finish, done = events(plain.last(Finish.LENGTH, COUNTS, REPORT))
    assert "usage" not in finish
    assert finish["choices"][0]["finish_reason"] == "length"
    assert done == b"[DONE]"


def test_a_streamed_completion_has_text() -> None:
    it = answer(Operation.COMPLETION, include_usage=False)
    said, finish, _ = events(it.first() + it.piece("hi") + it.last(Finish.STOP, COUNTS, None))
    assert said["object"] == "text_completion"
    assert said["choices"][0]["text"] == "hi"
    assert finish["choices"][0] == {
        "index": 0,
        "text": "",
        "logprobs": None,
        "finish_reason": "stop",
    }


@pytest.mark.parametrize(
    ("operation", "kind", "key", "said"),
    [
        (
            Operation.CHAT,
            "chat.completion",
            "message",
            {"role": "assistant", "content": "hi", "refusal": None},
        ),
        (Operation.COMPLETION, "text_completion", "text", "hi"),
    ],
)
def test_a_whole_answer_has_its_usage(
    operation: Operation, kind: str, key: str, said: object
) -> None:
    body = json.loads(answer(operation).whole("hi", Finish.STOP, COUNTS, None))
    assert (body["object"], body["usage"]) == (kind, USAGE)
    assert body["choices"][0][key] == said
    assert "replica" not in body
