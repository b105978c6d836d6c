"""A request as the rest of an answer that broke off."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.domain import Delivered
from gateway.errors import UpstreamRefused
from gateway.wire.adapt import continued_from_text, with_max_tokens_as, with_reasoning_as
from tests.support.requests import chat, completion


@pytest.mark.parametrize(
    ("delivered", "left"),
    [
        (Delivered("abc", (1, 2)), 8),
        (Delivered("abcdefghi", None), 7),  # not told: four bytes each, rounded up
        (Delivered("", ()), 10),
        (Delivered("", None), 10),
        (Delivered("x", tuple(range(99))), 1),
    ],
)
def test_what_was_delivered_is_spent(delivered: Delivered, left: int) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        assert continued_from_text(chat("hi", **{name: 10}), delivered)[name] == left


def test_fewest_tokens_are_spent_too_and_no_bound_stays_none() -> None:
    fields = continued_from_text(chat("hi", min_tokens=3), Delivered("abc", (1,) * 5))
    assert fields["min_tokens"] == 0
    assert "max_tokens" not in fields


def test_a_message_that_was_to_be_continued_goes_on_with_both() -> None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Once"}]
    asked = chat(messages=messages, continue_final_message=True, add_generation_prompt=False)
    fields = continued_from_text(asked, Delivered(" upon", None))
    assert fields["messages"] == [messages[0], {"role": "assistant", "content": "Once upon"}]


def test_a_message_in_parts_has_no_end_to_go_on_from() -> None:
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "Once"}]}]
    with pytest.raises(UpstreamRefused):
        continued_from_text(chat(messages=parts, continue_final_message=True), Delivered("", None))


def test_an_echoed_prompt_is_not_sent_again() -> None:
    fields = continued_from_text(completion("It was", echo=True), Delivered("It was a", None))
    assert fields["echo"] is False


@pytest.mark.parametrize(
    ("fields", "renamed"),
    [
        ({"max_tokens": 5}, {"bound": 5}),
        ({"max_completion_tokens": 5, "max_tokens": 9, "n": 1}, {"bound": 5, "n": 1}),
        ({"max_completion_tokens": None, "max_tokens": 9}, {"bound": 9}),
        ({"max_tokens": None}, {"max_tokens": None}),
        ({}, {}),
    ],
)
def test_the_bound_has_one_name(fields: dict[str, Any], renamed: dict[str, Any]) -> None:
    assert with_max_tokens_as("bound", fields) == renamed


def test_the_clients_own_messages_are_not_changed() -> None:
    fields = {"messages": [{"role": "assistant", "reasoning_content": "hm"}]}
    assert with_reasoning_as("reasoning", fields)["messages"][0]["reasoning"] == "hm"
    assert fields["messages"][0] == {"role": "assistant", "reasoning_content": "hm"}
