"""Error bodies, in every shape that providers have."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.wire.error_body import Said, error_said, parse_error, says_too_long


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            b'{"error": {"message": "m", "code": "c", "type": "t", "param": "p"}}',
            Said("m", "c", "t", "p"),
        ),
        (b'{"object": "error", "message": "m", "code": 400}', Said("m", status=400)),
        (b'{"error": "m"}', Said("m")),
        (b'{"error": "m", "error_type": "validation"}', Said("m", type="validation")),
        (b'{"error": {"message": ["m"], "code": "404"}}', Said(status=404)),
        (b'{"error": {"message": "m"}, "status_code": 503}', Said("m", status=503)),
        (b'{"detail": "m"}', Said("m")),
        (b'{"detail": [{"loc": ["body", "n", 0], "msg": "m", "type": "t"}]}', Said("n.0: m")),
        (b'{"detail": [{"loc": 7, "msg": "m"}]}', Said("m")),
        (b'{"detail": []}', Said()),
        (b'{"fault": {"faultstring": "m", "detail": {"errorcode": "c"}}}', Said("m", "c")),
        (
            b'{"error": {"message": "m", "code": 402, "metadata": {"error_type": "c"}}}',
            Said("m", "c", status=402),
        ),
        (
            b'{"error": {"message": "m", "availability": {"retry_after": 3}}}',
            Said("m", retry_after_s=3),
        ),
        (b'{"error": {"message": "m"}, "retry_after": 2.5}', Said("m", retry_after_s=2.5)),
        (b'{"retry_after": true}', Said()),
        (b'{"error": null, "message": "m"}', Said("m")),
        (b"[]", Said()),
        (b"<html>busy</html>", Said()),
        (b"[" * 100_000, Said()),
        (b"", Said()),
    ],
)
def test_what_an_error_body_says(body: bytes, said: Said) -> None:
    assert parse_error(body) == said


@pytest.mark.parametrize(
    ("said", "too_long"),
    [
        (Said(code="context_length_exceeded"), True),
        (Said(type="exceed_context_size_error"), True),
        (Said("This model's maximum context length is 8192 tokens."), True),
        (Said("The input (9000 tokens) is longer than the model's context length"), True),
        (Said("Prompt is too long"), True),
        (Said("max_tokens must be positive"), False),
        (Said("`inputs` tokens + `max_new_tokens` must be <= 16. Given: 20 `inputs`"), True),
        (Said("the context of this error is unknown"), False),
        (Said(), False),
    ],
)
def test_a_context_that_is_exceeded(said: Said, too_long: bool) -> None:
    assert says_too_long(said) is too_long


NAMES = ["error", "message", "code", "detail", "fault", "metadata", "availability", "retry_after"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*NAMES, "loc", "msg"]), inner),
)


@given(st.dictionaries(st.sampled_from(NAMES), anything))
def test_whatever_it_holds_is_read(body: dict[str, Any]) -> None:
    assert isinstance(error_said(body), Said)
    assert isinstance(parse_error(json.dumps(body).encode()), Said)
