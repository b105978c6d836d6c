"""What a client has of an answer, and who can go on with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.delivery import Delivery
from gateway.domain import Event, InferenceRequest
from gateway.errors import UpstreamBroken
from gateway.providers.base import Continuation
from gateway.wire.openai import check_whole, parse_event
from tests.support.requests import chat, completion

IDS, TEXT = Continuation.TOKEN_IDS, Continuation.TEXT


def piece(*, ids: list[int] | None = None, **choice: Any) -> Event:
    known = {"index": 0, "finish_reason": None} | ({} if ids is None else {"token_ids": ids})
    return parse_event(json.dumps({"choices": [known | choice]}).encode())


def said(text: str, ids: list[int] | None = None, **delta: Any) -> Event:
    return piece(ids=ids, delta={"content": text, **delta})


def after(request: InferenceRequest, *events: Event) -> Delivery:
    delivery = Delivery(request)
    delivery.request_for(None)
    for event in events:
        assert delivery.take(event) is event
    return delivery


@pytest.mark.parametrize(
    ("request_", "events", "by_ids", "by_text"),
    [
        (chat(stream=True), [said("a", [1]), said("b", [2])], True, True),
        (chat(stream=True), [said("a"), said("b")], False, True),
        (chat(stream=True), [said("a", [1]), said("b")], False, True),
        (chat(stream=True), [said("a", [1], reasoning_content="x")], True, False),
        (chat(stream=True), [said("a", [1], tool_calls=[{"index": 0}])], True, False),
        (chat(stream=True, response_format={"type": "json_object"}), [said("{", [1])], True, False),
        (chat(stream=True, n=2), [said("a", [1])], False, False),
        (chat(stream=True, logprobs=True), [said("a", [1])], False, False),
        (completion(stream=True), [piece(text="a", ids=[1])], True, True),
        (completion(stream=True, echo=True), [piece(text="hi", ids=[])], True, False),
        (completion([1, 2], stream=True), [piece(text="a", ids=[1])], True, False),
    ],
)
def test_who_can_go_on(
    request_: InferenceRequest, events: list[Event], by_ids: bool, by_text: bool
) -> None:
    delivery = after(request_, *events)
    fits = {how: delivery.fits(how) for how in (IDS, TEXT, None)}
    assert fits == {IDS: by_ids, TEXT: by_text, None: False}


def test_what_is_handed_on_is_exactly_what_was_sent() -> None:
    held_back = said("", [2])  # half a character: its text comes later
    delivery = after(chat(stream=True), said("", [], role="assistant"), said("é", [1]), held_back)
    delivered = delivery.request_for(IDS).delivered
    assert delivered is not None
    assert (delivered.text, delivered.token_ids, delivered.tokens) == ("é", (1, 2), 2)


def test_a_role_that_comes_again_and_pieces_without_news_are_left_out() -> None:
    delivery = after(chat(stream=True), said("", role="assistant"), said("a"))
    delivery.request_for(TEXT)
    assert delivery.take(said("", role="assistant")) is None
    news = delivery.take(said("b", role="assistant"))
    assert news is not None
    assert news.payload["choices"][0]["delta"] == {"content": "b"}


@pytest.mark.parametrize("choice", [{"delta": 7}, {"delta": {"content": []}}, {"delta": "x"}])
def test_what_is_no_piece_of_a_chat_goes_no_further(choice: dict[str, Any]) -> None:
    with pytest.raises(UpstreamBroken):
        Delivery(chat(stream=True)).take(piece(**choice))


def test_a_null_delta_is_an_empty_one() -> None:
    shown = Delivery(chat(stream=True)).take(piece(delta=None, finish_reason="stop"))
    assert shown is not None
    assert shown.payload["choices"][0]["delta"] == {}


@pytest.mark.parametrize(
    ("request_", "choices"),
    [
        (chat(stream=True), 1),
        (chat(stream=True, n=2), 2),
        (completion([1, 2], stream=True), 1),
        (completion(["a", "b"], stream=True, n=2), 4),
        (completion([[1], [2]], stream=True), 2),
    ],
)
def test_an_answer_is_finished_when_each_of_its_choices_is(
    request_: InferenceRequest, choices: int
) -> None:
    delivery = Delivery(request_)
    for index in range(choices):
        assert not delivery.finished
        delivery.take(piece(index=index, text="", delta={}, finish_reason="stop"))
    assert delivery.finished


@pytest.mark.parametrize("shown", [True, False])
def test_usage_after_a_text_was_gone_on_with_is_shown_to_whom_it_was_told(shown: bool) -> None:
    delivery = after(chat(stream=True), said("a"), said("b"))
    delivery.request_for(TEXT)
    usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    event = parse_event(json.dumps({"choices": [], "usage": usage}).encode())
    if not shown:
        del event.payload["usage"]
    delivery.take(event)
    told = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert event.payload.get("usage") == (told if shown else None)
    assert event.usage is not None
    assert event.usage.completion_tokens == 3


@pytest.mark.parametrize("request_", [chat(), completion()])
@pytest.mark.parametrize("choices", [[], [{}], [{"message": "hi", "text": None}]])
def test_a_whole_answer_with_nothing_in_it_is_a_broken_one(
    request_: InferenceRequest, choices: list[Any]
) -> None:
    with pytest.raises(UpstreamBroken):
        check_whole(request_.operation, parse_event(json.dumps({"choices": choices}).encode()))
