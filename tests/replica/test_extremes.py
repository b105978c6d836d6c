"""Every number that a client can send is answered or refused by name, whatever its size."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.domain import Operation
from gateway.errors import InvalidRequest
from gateway.replica.api import parse
from gateway.replica.engine import Engine
from gateway.replica.sampling import Sampling
from tests.support.callers import Caller, prompt
from tests.support.fake_backend import FakeBackend

FRACTIONS = ("temperature", "top_p", "min_p", "repetition_penalty")
SIGNED = ("presence_penalty", "frequency_penalty")
WHOLE = ("top_k", "seed", "max_tokens", "min_tokens", "logprobs", "n", "best_of")
NUMBERS = st.one_of(
    st.sampled_from([0, -0.0, 5e-324, 1e-50, 1e-38, 1e-5, 0.01, 1, 2, 10, 1e38, 1.7e308]),
    st.sampled_from([-1, 2**31 - 1, 2**31, 2**63 - 1, -(2**63), 2**64, 10**400]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(),
)
BODIES = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys((*FRACTIONS, *SIGNED, *WHOLE), NUMBERS)
    | {
        "logit_bias": st.dictionaries(st.integers(0, 60).map(str), NUMBERS, max_size=3),
        "stop_token_ids": st.lists(NUMBERS, max_size=2),
    },
)


def refused_field(act: Callable[[], object]) -> str | None:
    """What is wrong with the request, if it is refused."""
    try:
        act()
    except InvalidRequest as refusal:
        return refusal.param
    return None


def answer(sampling: Sampling) -> None:
    engine = Engine(FakeBackend())
    few = min(3, sampling.max_tokens or 3)
    least = min(sampling.min_tokens, few)
    caller = Caller(prompt(20), replace(sampling, max_tokens=few, min_tokens=least))
    caller.submit(engine)
    while engine.step():
        pass
    assert caller.error is None
    assert caller.finish is not None


@settings(max_examples=300, deadline=None)
@given(BODIES)
def test_any_numbers_are_answered_or_refused_by_name(numbers: dict[str, object]) -> None:
    body = json.dumps({"model": "m", "prompt": "hello", **numbers}).encode()
    wrong = refused_field(lambda: answer(parse(Operation.COMPLETION, body, trusted=False).sampling))
    assert wrong is None or wrong in numbers


@pytest.mark.parametrize("name", [*FRACTIONS, *SIGNED])
@pytest.mark.parametrize("value", [0.01, 5e-324, 1e-50, 1e-5, 1.0, 2.0, 10.0, -2.0])
def test_each_number_alone_and_at_its_ends(name: str, value: float) -> None:
    wrong = refused_field(lambda: answer(Sampling(seed=1, **{name: value})))
    assert wrong in (None, name)
