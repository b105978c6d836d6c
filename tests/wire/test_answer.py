"""What endpoints send: read with suspicion, shown to the client under its own names."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.domain import EndpointStats, Event, InferenceRequest, ReplicaReport, Usage
from gateway.errors import UpstreamBroken
from gateway.wire.error_body import Said, parse_error
from gateway.wire.openai import (
    Ending,
    ErrorInAnswer,
    Presenter,
    encode_json,
    encode_request,
    parse_event,
    parse_report,
    parse_stats,
    parse_usage,
)
from tests.support.requests import chat, completion

CHUNK = {"id": "theirs-1", "created": 5, "model": "theirs", "choices": [{"delta": {"content": ""}}]}
REPORT = {"epoch": "e", "running": 2, "queued_tokens": 30, "horizon_age_s": 1.5}


def event(**fields: Any) -> Event:
    return parse_event(json.dumps(CHUNK | fields).encode())


def test_an_event_is_its_payload_and_what_it_tells() -> None:
    parsed = event(usage={"prompt_tokens": 3, "completion_tokens": 4}, replica=REPORT)
    assert parsed.usage == Usage(3, 4)
    assert parsed.report == ReplicaReport("e", 2, 30, 1.5)
    assert "replica" not in parsed.payload
    assert not parsed.finishes
    assert event(choices=[{"finish_reason": None}, {"finish_reason": "stop"}]).finishes


NEXT = {"index": 0, "delta": {"content": " sea"}, "logprobs": None, "finish_reason": None}


@pytest.mark.parametrize("choice", [NEXT, {"delta": {"content": " sea"}}])
def test_the_next_of_one_choices_text_is_known_as_no_more_than_that(choice: Any) -> None:
    parsed = event(choices=[choice], usage=None)
    assert parsed == Event(parsed.payload, None, None, finishes=False, text=" sea")
    told = event(choices=[choice | {"token_ids": [7, 8]}])
    assert told.token_ids == (7, 8)
    assert "token_ids" not in told.payload["choices"][0]


@pytest.mark.parametrize(
    "fields",
    [
        {"choices": [NEXT | {"index": 1}]},
        {"choices": [NEXT, NEXT]},
        {"choices": [NEXT | {"finish_reason": "stop"}]},
        {"choices": [NEXT | {"logprobs": {"content": []}}]},
        {"choices": [NEXT | {"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [NEXT | {"delta": {"reasoning": "hm"}}]},
        {"choices": [NEXT | {"delta": {"content": None}}]},
        {"choices": [NEXT | {"message": {"content": "", "reasoning": "hm"}}]},
        {"choices": [NEXT], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
        {"choices": [NEXT], "x_groq": {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}},
        {"choices": [NEXT], "replica": REPORT},
    ],
)
def test_what_tells_more_is_read_for_all_of_it(fields: Any) -> None:
    assert event(**fields).text is None


@pytest.mark.parametrize(
    ("choices", "usage", "usage_only"),
    [
        ([], {"prompt_tokens": 3, "completion_tokens": 4}, True),
        ([{}], {"prompt_tokens": 3, "completion_tokens": 4}, False),
        ([], None, False),  # as some providers begin a stream
    ],
)
def test_the_extra_chunk_with_usage_is_known(
    choices: list[object], usage: object, usage_only: bool
) -> None:
    assert event(choices=choices, usage=usage).is_usage_only is usage_only


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[]", "not an answer"),
        (b"null", "not an answer"),
        (b"{}", "without choices"),
        (b'{"choices": null}', "without choices"),
        (b'{"choices": {}}', "without choices"),
        (b'{"choices": [1]}', "without choices"),
    ],
)
def test_what_is_no_answer_is_refused_without_quoting_it(raw: bytes, says: str) -> None:
    with pytest.raises(UpstreamBroken, match=says) as caught:
        parse_event(raw)
    assert "sk-secret" not in caught.value.message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "m", "code": 429}}, Said(message="m", status=429)),
        ({"error": "overloaded", "choices": []}, Said(message="overloaded")),
        ({"error": {"message": "m"}, "status_code": 503}, Said(message="m", status=503)),
        ({"choices": [{"finish_reason": "error"}]}, Said()),
    ],
)
def test_an_error_in_place_of_an_answer_is_read_as_one(body: dict[str, Any], said: Said) -> None:
    with pytest.raises(ErrorInAnswer) as caught:
        parse_event(json.dumps(body).encode())
    assert caught.value.said == said


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ([{"token_ids": [5, 6]}], (5, 6)),
        ([{"token_ids": []}], ()),
        ([{}], None),
        ([{"token_ids": "56"}], None),
        ([{"token_ids": [True]}], None),
        ([{"token_ids": [5]}, {"token_ids": [6]}], None),  # of two answers, neither can go on
    ],
)
def test_token_ids_are_for_the_gateway_alone(
    choices: list[dict[str, Any]], told: tuple[int, ...] | None
) -> None:
    parsed = event(choices=choices)
    assert parsed.token_ids == told
    assert not any("token_ids" in choice for choice in parsed.payload["choices"])


def test_a_null_error_is_none() -> None:
    assert event(error=None)


ODD_DETAILS: list[object] = [None, [], {}, *({"cached_tokens": n} for n in (None, "2", -1))]


@pytest.mark.parametrize(
    ("usage", "parsed"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4, None)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": "x"}, Usage(3, 4, None)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "cost": 0.25}, Usage(3, 4, cost_usd=0.25)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "cost": 0}, Usage(3, 4, cost_usd=0.0)),
        (
            {"prompt_tokens": 3, "completion_tokens": 4, "estimated_cost": 1e-5},
            Usage(3, 4, cost_usd=1e-5),
        ),
        ({"prompt_tokens": 3, "completion_tokens": 4, "cost": -1}, Usage(3, 4)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "cost": float("nan")}, Usage(3, 4)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "cost": 10**400}, Usage(3, 4)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "cost": {"total": 1}}, Usage(3, 4)),
        (
            {
                "prompt_tokens": 3,
                "completion_tokens": 0,
                "prompt_tokens_details": {"cached_tokens": 2},
            },
            Usage(3, 0, 2),
        ),
        *(
            (
                {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": odd},
                Usage(3, 4, None),
            )
            for odd in ODD_DETAILS
        ),
        (None, None),
        ([], None),
        ({}, None),
        ({"prompt_tokens": 3}, None),
        ({"prompt_tokens": 3.0, "completion_tokens": 4}, None),
        ({"prompt_tokens": None, "completion_tokens": 4}, None),
        ({"prompt_tokens": True, "completion_tokens": 4}, None),
        ({"prompt_tokens": -3, "completion_tokens": 4}, None),
    ],
)
def test_odd_usage_counts_as_not_told(usage: object, parsed: Usage | None) -> None:
    assert parse_usage(usage) == parsed


@pytest.mark.parametrize(
    ("report", "parsed"),
    [
        (REPORT, ReplicaReport("e", 2, 30, 1.5)),
        (REPORT | {"horizon_age_s": None}, ReplicaReport("e", 2, 30, None)),
        (REPORT | {"horizon_age_s": 2, "more": 1}, ReplicaReport("e", 2, 30, 2.0)),
        (None, None),
        ([], None),
        ({}, None),
        ({name: REPORT[name] for name in ("epoch", "running", "queued_tokens")}, None),
        (REPORT | {"epoch": None}, None),
        (REPORT | {"running": "many"}, None),
        (REPORT | {"queued_tokens": float("inf")}, None),
        (REPORT | {"horizon_age_s": "old"}, None),
        # These would make every placement void, or none ever again.
        (REPORT | {"horizon_age_s": float("nan")}, None),
        (REPORT | {"horizon_age_s": float("inf")}, None),
        (REPORT | {"horizon_age_s": -1}, None),
    ],
)
def test_an_odd_report_counts_as_none(report: object, parsed: ReplicaReport | None) -> None:
    assert parse_report(report) == parsed


def told(context_length: int | None) -> EndpointStats:
    report = ReplicaReport("e", 2, 30, 1.5)
    return EndpointStats(running=2, context_length=context_length, report=report)


@pytest.mark.parametrize(
    ("stats", "parsed"),
    [
        (
            REPORT | {"context_length": 2048, "blocks": {}},
            told(2048),
        ),
        (
            REPORT | {"waiting": 3, "blocks": {"total": 100, "owned": 25}},
            dataclasses.replace(told(None), waiting=3, kv_usage=0.25),
        ),
        (
            REPORT | {"waiting": -1, "blocks": {"total": 0, "owned": 0}},
            told(None),
        ),
        (REPORT, told(None)),
        (
            REPORT | {"context_length": "long"},
            told(None),
        ),
        ({"context_length": 2048}, None),
        ([REPORT], None),
    ],
)
def test_stats_are_a_report_and_more(stats: object, parsed: EndpointStats | None) -> None:
    assert parse_stats(json.dumps(stats).encode()) == parsed


def test_stats_that_are_no_json_count_as_none() -> None:
    assert parse_stats(b"<html>") is None
    assert parse_stats(b"[" * 100_000) is None


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("choices", "finish_reason", "usage", "replica", "error", "message"),
                    *("prompt_tokens", "completion_tokens", "prompt_tokens_details"),
                    *(*REPORT, "context_length"),
                ]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(anything | st.fixed_dictionaries({"choices": st.just([])}, optional={"usage": anything}))
def test_whatever_an_endpoint_sends_is_read_or_refused(sent: object) -> None:
    raw = json.dumps(sent).encode()
    with suppress(UpstreamBroken, ErrorInAnswer):
        parse_event(raw)
    parse_stats(raw)
    assert parse_error(raw) == Said() or isinstance(sent, dict)


# What the client sees.


def shown(presenter: Presenter, **fields: Any) -> dict[str, Any]:
    presented: dict[str, Any] = json.loads(presenter.present(event(**fields)))
    return presented


def test_a_stream_has_one_id_one_time_and_the_clients_model_name() -> None:
    presenter = Presenter("mine", "r1")
    chunks = [
        shown(presenter),
        shown(presenter, id="theirs-2", created=6),
        shown(presenter, id=None, created=None, model="else"),
    ]
    assert [(c["id"], c["created"], c["model"]) for c in chunks] == [("theirs-1", 5, "mine")] * 3
    assert chunks[0]["choices"] == CHUNK["choices"]


def test_an_answer_without_an_id_gets_the_requests() -> None:
    presenter = Presenter("mine", "r1")
    assert shown(presenter, id=None)["id"] == "gen-r1"
    assert shown(presenter, id="theirs-2")["id"] == "gen-r1"


# What the endpoint sees.


def sent(request: InferenceRequest, **extra: object) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(encode_request("theirs", request, extra))
    return body


@pytest.mark.parametrize(
    ("asked", "upstream"),
    [
        ({"stream": True}, {"include_usage": True}),
        ({"stream": True, "stream_options": None}, {"include_usage": True}),
        ({"stream": True, "stream_options": {"include_usage": False}}, {"include_usage": True}),
        (
            {"stream": True, "stream_options": {"chunk_include_usage": False}},
            {"chunk_include_usage": False, "include_usage": True},
        ),
        ({"stream": False}, None),
        ({"stream_options": {"include_usage": True}}, {"include_usage": True}),  # its to refuse
    ],
)
def test_usage_is_asked_for_beside_the_clients_own_stream_options(
    asked: dict[str, Any], upstream: dict[str, Any] | None
) -> None:
    assert sent(chat(**asked)).get("stream_options") == upstream


def test_the_endpoint_gets_its_own_model_name_and_the_gateways_fields() -> None:
    body = sent(chat(cache_salt="the client's", seed=7), cache_salt="ours")
    assert (body["model"], body["cache_salt"], body["seed"]) == ("theirs", "ours", 7)


def test_the_clients_request_is_not_changed() -> None:
    request = chat("hi", stream=True, stream_options={"include_usage": False})
    encode_request("theirs", request, {"cache_salt": "ours"})
    assert request.forwarded["stream_options"] == {"include_usage": False}
    assert "cache_salt" not in request.forwarded


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ({"a": "é\u2028"}, '{"a":"é\u2028"}'.encode()),
        ("\ud83d", b'"\\ud83d"'),  # half of a pair, which only an escape can carry
        ([1.5, None, True], b"[1.5,null,true]"),
    ],
)
def test_json_is_compact_and_utf8(value: object, encoded: bytes) -> None:
    assert encode_json(value) == encoded


def test_a_count_beyond_reason_is_no_count() -> None:
    for absurd in (2**53, 10**400):
        assert parse_usage({"prompt_tokens": absurd, "completion_tokens": 1}) is None


@pytest.mark.parametrize(
    ("indices", "reached", "said"),
    [
        ([(0, True), (1, True)], True, True),
        ([(0, True)], False, True),  # it gives one, whatever `n` asks
        ([(0, True), (1, False)], False, False),  # the other was cut
        ([(0, True), (1, True), (1, False)], True, True),  # a piece that comes late
        ([(0, True), (2, True), (-1, True), ("1", True)], False, True),  # others were not asked for
        ([], False, False),
    ],
)
def test_an_answer_of_two_choices_ends(
    indices: list[tuple[Any, bool]], reached: bool, said: bool
) -> None:
    ending = Ending(chat(stream=True, n=2))
    for index, finishes in indices:
        reason = "stop" if finishes else None
        ending.note(event(choices=[{"index": index, "delta": {}, "finish_reason": reason}]))
    assert (ending.reached, ending.said) == (reached, said)


def test_each_of_many_prompts_has_its_choices() -> None:
    ending = Ending(completion(["a", "b"], stream=True, n=2))
    for index in range(4):
        assert not ending.reached
        ending.note(event(choices=[{"index": index, "text": "", "finish_reason": "stop"}]))
    assert ending.reached
