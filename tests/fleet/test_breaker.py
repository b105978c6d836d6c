from __future__ import annotations

from itertools import pairwise

import pytest

from gateway.fleet.breaker import AT_LEAST, FIRST_S, IN_A_ROW, LONGEST_S, WINDOW_S, Breaker


def middle() -> float:
    return 0.5  # no jitter


def ejected_at(now: float) -> Breaker:
    breaker = Breaker(middle)
    for _ in range(IN_A_ROW):
        breaker.failed(now)
    return breaker


def test_failures_in_a_row_eject() -> None:
    breaker = Breaker(middle)
    states = []
    for _ in range(IN_A_ROW):
        states.append(breaker.ejected(100))
        breaker.failed(100)
    assert states == [False] * IN_A_ROW
    assert breaker.ejected(100)


def test_a_success_between_them_does_not() -> None:
    breaker = Breaker(middle)
    for now in range(100, 1000, 10):  # so slowly that the share is of a few
        breaker.failed(now)
        breaker.succeeded(now)
        assert not breaker.ejected(now)


def test_half_of_many_failing_within_the_window_ejects() -> None:
    breaker = Breaker(middle)
    for i in range(AT_LEAST):
        assert not breaker.ejected(100 + i * 0.1)
        (breaker.failed if i % 2 else breaker.succeeded)(100 + i * 0.1)
    assert breaker.ejected(101)


def test_old_failures_are_forgotten() -> None:
    breaker = Breaker(middle)
    for _ in range(IN_A_ROW - 1):
        breaker.failed(100)
    breaker.succeeded(100)
    for _ in range(AT_LEAST):
        breaker.succeeded(100 + 2 * WINDOW_S)
    breaker.failed(100 + 2 * WINDOW_S)
    assert not breaker.ejected(100 + 2 * WINDOW_S)


def test_after_a_time_one_request_at_a_time_finds_out() -> None:
    breaker = ejected_at(100)
    assert not breaker.began(102), "nobody else was left: no probe"
    assert not breaker.ejected(100 + FIRST_S)
    assert breaker.began(100 + FIRST_S)
    assert breaker.ejected(100 + FIRST_S), "another one must not be sent"


def test_a_probe_that_is_answered_brings_it_back() -> None:
    breaker = ejected_at(100)
    breaker.began(106)
    breaker.answers(107)
    assert not breaker.ejected(107)
    for _ in range(IN_A_ROW - 1):
        breaker.failed(107)
    assert not breaker.ejected(107), "it has all of its chances again"


def test_a_probe_that_tells_nothing_leaves_room_for_another() -> None:
    breaker = ejected_at(100)
    breaker.let_go(breaker.began(106))
    assert not breaker.ejected(106)
    assert breaker.began(106)


def test_a_probe_that_ends_late_makes_no_room_beside_the_next_one() -> None:
    breaker = ejected_at(100)
    first = breaker.began(106)
    breaker.answers(107)
    for _ in range(IN_A_ROW):
        breaker.failed(108)
    assert breaker.began(130)
    breaker.let_go(first)
    assert breaker.ejected(130)


@pytest.mark.parametrize(("draw", "factor"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_each_ejection_is_longer_up_to_a_limit_and_jittered(draw: float, factor: float) -> None:
    breaker = Breaker(lambda: draw)
    for _ in range(IN_A_ROW):
        breaker.failed(0.0)
    now, ends = 0.0, []
    for _ in range(9):
        length = next(s for s in range(1, 400) if not breaker.ejected(now + s))
        ends.append(length)
        now += length
        assert breaker.began(now)
        breaker.failed(now)
    assert ends[0] == pytest.approx(FIRST_S * factor, abs=1)
    assert all(b >= a for a, b in pairwise(ends))
    assert ends[-1] == pytest.approx(LONGEST_S * factor, abs=1)


def test_one_that_was_well_for_long_begins_with_the_shortest_again() -> None:
    breaker = ejected_at(0)
    breaker.began(10)
    breaker.failed(10)  # twice
    breaker.began(30)
    breaker.answers(30)
    for _ in range(IN_A_ROW):
        breaker.failed(500)
    assert not breaker.ejected(500 + FIRST_S)
