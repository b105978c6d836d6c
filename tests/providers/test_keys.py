"""Which of an endpoint's keys is used."""

from __future__ import annotations

from gateway.providers.keys import LONGEST_REST_S, Keys
from tests.support.clock import ManualClock


def test_one_is_used_until_it_has_to_rest_and_then_the_next_in_turn() -> None:
    clock = ManualClock()
    keys = Keys(["a", "b", "c"], clock)
    assert list(keys.in_turn()) == ["a", "b", "c"]
    keys.rest("a", 10)
    assert list(keys.in_turn()) == ["b", "c"]
    clock.advance(10)
    assert list(keys.in_turn()) == ["b", "c", "a"], "back, but nobody leaves the one in use"


def test_if_all_rest_the_one_that_is_free_soonest_is_tried() -> None:
    clock = ManualClock()
    keys = Keys(["a", "b"], clock)
    keys.rest("a", 10)
    keys.rest("b", 5)
    assert (list(keys.in_turn()), keys.rests_s()) == (["b"], 5)
    clock.advance(5)
    assert keys.rests_s() == 0


def test_without_a_key_there_is_still_a_limit_to_be_at() -> None:
    keys = Keys([], ManualClock())
    assert list(keys.in_turn()) == [None]
    keys.rest(None, 3)
    assert (list(keys.in_turn()), keys.rests_s()) == ([None], 3)


def test_a_rest_ends_with_a_good_answer_to_what_was_asked_since() -> None:
    clock = ManualClock()
    keys = Keys(["a"], clock)
    asked_before = clock()
    clock.advance(1)
    keys.rest("a", 60)
    keys.served("a", asked_before)
    assert keys.rests_s() == 60, "that answer knew nothing of the refusal"
    clock.advance(1)
    keys.served("a", clock())
    assert keys.rests_s() == 0


def test_no_rest_is_longer_than_some_minutes_whatever_is_said() -> None:
    keys = Keys(["a"], ManualClock())
    keys.rest("a", 24 * 3600)
    assert keys.rests_s() == LONGEST_REST_S


def test_keys_do_not_print() -> None:
    assert "secret" not in repr(Keys(["secret"], ManualClock()))
