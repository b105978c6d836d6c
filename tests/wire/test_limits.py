"""When to come back and how much is left, in every notation that providers have."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.wire.limits import LONGEST_S, Limits, parse_limits, parse_reset, parse_retry_after

NOW = 1_790_000_000.0  # 2026-09-21 13:33:20 UTC


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "1s"}, 1),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:50 GMT"}, 30),
        ({"retry-after": "Mon, 21 Sep 2026 14:00:00 GMT"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "999999999"}, LONGEST_S),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
        # A limit's reset, if it is used up.
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360),
        ({"x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(NOW + 12)}, 12),
    ],
)
def test_when_to_come_back(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2m59.56s", 179.56),
        ("120ms", 0.12),
        ("1h2m3s", 3723),
        ("1d", 86400),
        ("12.5", 12.5),
        (str(NOW + 60), 60),
        (str(int((NOW + 60) * 1000)), 60),
        (str(NOW - 60), 0),
        ("", None),
        ("2m and a bit", None),
        ("inf", None),
    ],
)
def test_when_a_limit_is_whole_again(text: str, seconds: float | None) -> None:
    assert parse_reset(text, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        ({}, Limits()),
        ({"x-ratelimit-limit-requests": "100"}, Limits()),
        ({"x-ratelimit-remaining-requests": "many"}, Limits()),
        ({"x-ratelimit-remaining-requests": "-1"}, Limits()),  # there is no limit
        (
            {
                "X-Ratelimit-Remaining-Requests": "99",
                "X-Ratelimit-Remaining-Tokens-Prompt": "5000.0",
                "X-Ratelimit-Remaining-Tokens-Generated": "12",
            },
            Limits(99, 12),
        ),
        (
            {
                "x-ratelimit-remaining-requests-day": "0",
                "x-ratelimit-remaining-requests-minute": "0",
                "x-ratelimit-reset-requests-day": "3600",
                "x-ratelimit-reset-requests-minute": "9",
            },
            Limits(0, None, 3600),  # until both are
        ),
        (
            {"x-ratelimit-remaining": "5", "x-tokenlimit-remaining": "0", "x-ratelimit-reset": "3"},
            Limits(5, 0, 3),
        ),
    ],
)
def test_what_is_left(headers: dict[str, str], limits: Limits) -> None:
    assert parse_limits(headers, NOW) == limits
    both = (limits.remaining_requests, limits.remaining_tokens)
    assert limits.used_up is (0 in both)


NAMES = ["retry-after", "retry-after-ms", "x-ratelimit-remaining-tokens", "x-ratelimit-reset"]


@given(st.dictionaries(st.sampled_from(NAMES), st.text()))
def test_whatever_they_hold_is_a_time_or_nothing(headers: dict[str, str]) -> None:
    told = parse_retry_after(headers, NOW)
    assert told is None or 0 <= told <= LONGEST_S
