from __future__ import annotations

import pytest

from gateway.extra_tries import WINDOW_S, ExtraTries


def taken(tries: ExtraTries, times: int, now: float) -> int:
    return sum(tries.take(now) for _ in range(times))


@pytest.mark.parametrize(("requests", "extra"), [(0, 3), (10, 3), (15, 3), (20, 4), (1000, 200)])
def test_a_fifth_of_the_requests_and_at_least_three(requests: int, extra: int) -> None:
    tries = ExtraTries()
    for _ in range(requests):
        tries.requested(100.0)
    assert taken(tries, 1000, now=100.0) == extra


def test_what_was_saved_in_better_days_is_not_spent_later() -> None:
    tries = ExtraTries()
    for _ in range(1000):
        tries.requested(100.0)
    assert taken(tries, 1000, now=100 + 2 * WINDOW_S) == 3


def test_the_minimum_comes_back() -> None:
    tries = ExtraTries()
    assert [taken(tries, 9, now) for now in (100.0, 101.0, 100 + 1.2 * WINDOW_S)] == [3, 0, 3]
