"""Answers in OpenAI's shape, whatever they were."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.wire.shapes import choice_to_openai, usage_to_openai


def shaped(payload: dict[str, Any]) -> dict[str, Any]:
    usage_to_openai(payload)
    choices = payload.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            choice_to_openai(choice)
    return payload


@pytest.mark.parametrize(
    ("theirs", "openais"),
    [
        ({"reasoning": "hm"}, {"reasoning_content": "hm"}),
        ({"reasoning_content": "hm"}, {"reasoning_content": "hm"}),
        ({"reasoning": "hm", "reasoning_content": "hm"}, {"reasoning_content": "hm"}),
        ({"reasoning": None, "content": "a"}, {"content": "a"}),
        ({"reasoning": {"some": "object"}}, {"reasoning": {"some": "object"}}),
    ],
)
@pytest.mark.parametrize("place", ["delta", "message"])
def test_reasoning_has_one_name(
    theirs: dict[str, Any], openais: dict[str, Any], place: str
) -> None:
    assert shaped({"choices": [{place: {**theirs}}]}) == {"choices": [{place: openais}]}


@pytest.mark.parametrize(
    ("theirs", "openais"),
    [("eos", "stop"), ("stop", "stop"), ("length", "length"), ("error", "error"), (None, None)],
)
def test_finish_reasons_have_openais_names(theirs: str | None, openais: str | None) -> None:
    (choice,) = shaped({"choices": [{"finish_reason": theirs}]})["choices"]
    assert choice["finish_reason"] == openais


@pytest.mark.parametrize(
    ("told", "cached"),
    [
        ({"usage": {"prompt_tokens_details": {"cached_tokens": 0}}}, 0),
        ({"usage": {"prompt_cache_hit_tokens": 3}}, 3),
        ({"usage": {}, "perf_metrics": {"cached-prompt-tokens": "3"}}, 3),
        ({"x_groq": {"usage": {"prompt_tokens_details": {"cached_tokens": 3}}}}, 3),
        (
            {
                "usage": {
                    "prompt_tokens_details": {"cached_tokens": 1},
                    "prompt_cache_hit_tokens": 2,
                }
            },
            1,
        ),
    ],
)
def test_cached_tokens_are_where_openai_has_them(told: dict[str, Any], cached: int) -> None:
    assert shaped(told)["usage"]["prompt_tokens_details"]["cached_tokens"] == cached


@pytest.mark.parametrize(
    "told",
    [
        {"usage": {"prompt_tokens": 3}},
        {"usage": {}, "perf_metrics": {"cached-prompt-tokens": "some"}},
        {"usage": {"prompt_cache_hit_tokens": -1}},
        {"usage": {"prompt_cache_hit_tokens": True}},
    ],
)
def test_what_is_not_told_stays_unknown(told: dict[str, Any]) -> None:
    assert "prompt_tokens_details" not in shaped(told)["usage"]


NAMES = ["choices", "usage", "x_groq", "perf_metrics", "delta", "message", "reasoning"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES), inner),
)


@given(st.dictionaries(st.sampled_from(NAMES), anything))
def test_whatever_it_holds_is_left_alone_or_shaped(payload: dict[str, Any]) -> None:
    shaped(payload)
