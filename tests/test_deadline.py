from __future__ import annotations

import pytest

from gateway.deadline import Deadline, deadline
from gateway.errors import InvalidRequest


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, (3600, 3600)),
        ({"x-request-timeout": "2.5"}, (2.5, 2.5)),
        ({"x-request-timeout": "99999"}, (3600, 3600)),
        ({"x-stainless-read-timeout": "600"}, (600, 3600)),
        ({"x-stainless-read-timeout": "600", "x-request-timeout": "30"}, (30, 30)),
        ({"x-stainless-read-timeout": "NOT_GIVEN"}, (3600, 3600)),
    ],
)
def test_the_shortest_time_counts(headers: dict[str, str], expected: tuple[float, float]) -> None:
    assert deadline(headers, longest_s=3600) == Deadline(*expected)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", ""])
def test_a_time_that_is_none_is_the_callers_mistake(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        deadline({"x-request-timeout": text}, longest_s=3600)
    assert caught.value.param == "x-request-timeout"
