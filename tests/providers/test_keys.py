"""Which of an endpoint's keys is used."""

from __future__ import annotations

from gateway.providers.keys import Keys
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


def test_keys_do_not_print() -> None:
    assert "secret" not in repr(Keys(["secret"], ManualClock()))
