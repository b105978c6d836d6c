from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.domain import Operation, ReplicaReport
from gateway.replica.answer import Answer
from gateway.replica.choice import Done, Piece
from gateway.replica.logprobs import LOWEST, Scored
from gateway.replica.request import Counts, Finish, Logprobs
from gateway.replica.speech import Said
from gateway.replica.text import Tokenizer
from tests.support.tiny_text import IM_END, tiny_metadata

TOKENIZER = Tokenizer(tiny_metadata())


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


def answer(
    operation: Operation = Operation.CHAT, include_usage: bool = True, **more: Any
) -> Answer:
    return Answer(operation, "id-1", 1_700_000_000, "m", include_usage, TOKENIZER, **more)


def end(finish: Finish, text: str = "") -> Piece:
    return Piece(0, Said(text), end=Done(finish, COUNTS))


def test_a_streamed_chat_names_its_speaker_and_ends_with_its_usage() -> None:
    first, said, finish, usage, done = events(
        answer().first(0)
        + answer().piece(Piece(0, Said("hi")))
        + answer().piece(end(Finish.STOP))
        + answer().last(COUNTS, REPORT)
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
    finish, done = events(plain.piece(end(Finish.LENGTH)) + plain.last(COUNTS, REPORT))
    assert "usage" not in finish
    assert finish["choices"][0]["finish_reason"] == "length"
    assert done == b"[DONE]"


def test_a_streamed_completion_has_text() -> None:
    it = answer(Operation.COMPLETION, include_usage=False)
    pieces = it.piece(Piece(0, Said("hi"))) + it.piece(end(Finish.STOP))
    said, finish, _ = events(it.first(0) + pieces + it.last(COUNTS, None))
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
    body = json.loads(answer(operation).whole([end(Finish.STOP, "hi")], COUNTS, None))
    assert (body["object"], body["usage"]) == (kind, USAGE)
    assert body["choices"][0][key] == said
    assert "replica" not in body


HELLO, HALF = TOKENIZER.encode("hello")[0], TOKENIZER.encode("é")[0]
SCORED = (
    Scored(HELLO, 0, Logprobs(-0.5, ((HELLO, -0.5), (IM_END, -1.5)))),
    Scored(HALF, 5, Logprobs(-float("inf"), ((HELLO, -0.25),))),
)


def test_a_chats_log_probabilities_show_each_token_and_its_bytes() -> None:
    piece = Piece(0, Said("hello"), scored=SCORED)
    (chunk,) = events(answer(include_usage=False, logprobs=2).piece(piece))
    assert chunk["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "hello",
                "logprob": -0.5,
                "bytes": list(b"hello"),
                "top_logprobs": [
                    {"token": "hello", "logprob": -0.5, "bytes": list(b"hello")},
                    {"token": "<|im_end|>", "logprob": -1.5, "bytes": list(b"<|im_end|>")},
                ],
            },
            {
                "token": "\ufffd",
                "logprob": LOWEST,
                "bytes": [0xC3],
                "top_logprobs": [{"token": "hello", "logprob": -0.25, "bytes": list(b"hello")}],
            },
        ],
        "refusal": None,
    }


def test_a_completions_log_probabilities_have_the_older_shape() -> None:
    piece = Piece(0, Said("hello"), scored=SCORED)
    (chunk,) = events(answer(Operation.COMPLETION, False, logprobs=2).piece(piece))
    assert chunk["choices"][0]["logprobs"] == {
        "tokens": ["hello", "bytes:\\xc3"],
        "token_logprobs": [-0.5, LOWEST],
        "top_logprobs": [
            {"hello": -0.5, "<|im_end|>": -1.5},
            {"hello": -0.25, "bytes:\\xc3": LOWEST},
        ],
        "text_offset": [0, 5],
    }
    (chunk,) = events(answer(Operation.COMPLETION, False, logprobs=0).piece(piece))
    assert chunk["choices"][0]["logprobs"]["top_logprobs"] is None


def test_token_ids_are_in_each_choice_where_they_were_asked_for() -> None:
    piece = Piece(1, Said("hello"), (HELLO,))
    (chunk,) = events(answer(include_usage=False, token_ids=True).piece(piece))
    assert (chunk["choices"][0]["index"], chunk["choices"][0]["token_ids"]) == (1, [HELLO])
    (chunk,) = events(answer(include_usage=False).piece(piece))
    assert "token_ids" not in chunk["choices"][0]


def test_an_echoed_prompt_begins_each_choice() -> None:
    it = answer(Operation.COMPLETION, False, echoed="hello ")
    (first,) = events(it.first(1))
    assert (first["choices"][0]["index"], first["choices"][0]["text"]) == (1, "hello ")
    body = json.loads(it.whole([end(Finish.STOP, "world")], COUNTS, None))
    assert body["choices"][0]["text"] == "hello world"


def test_a_continued_answer_does_not_begin_again() -> None:
    assert answer(begun=True).first(0) == b""
    it = answer(Operation.COMPLETION, echoed="hello ", begun=True)
    assert it.first(0) == b""
    body = json.loads(it.whole([end(Finish.STOP, "world")], COUNTS, None))
    assert body["choices"][0]["text"] == "world"
