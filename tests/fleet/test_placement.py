from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.domain import PrefixKey
from gateway.fleet.placement import Match, PlacementIndex


def keys(path: str) -> list[PrefixKey]:
    """`abc` is a prompt of three parts of 100 bytes, and shares two keys with `abd`."""
    return [PrefixKey(path[: i + 1].encode(), 100 * (i + 1)) for i in range(len(path))]


def sizes(index: PlacementIndex, path: str, now: float = 0.0) -> dict[str, int]:
    """How much of the prompt each endpoint is believed to have."""
    return {endpoint: match.size for endpoint, match in index.match(keys(path), now).items()}


def test_each_endpoints_longest_match_is_found() -> None:
    index = PlacementIndex()
    index.place("x", keys("ab"), 0.0)
    index.place("y", keys("abcd"), 0.0)
    index.place("z", keys("q"), 0.0)
    assert sizes(index, "abce") == {"x": 200, "y": 300}
    assert sizes(index, "r") == {}
    assert index.match([], 0.0) == {}


def test_tokens_are_known_once_an_answer_has_told() -> None:
    index = PlacementIndex()
    index.place("x", keys("abcd"), 1.0)
    assert index.match(keys("ab"), 1.0) == {"x": Match(200, None, 0.0)}
    index.place("x", keys("abcd"), 2.0, prompt_tokens=80)
    assert index.match(keys("ab"), 2.0) == {"x": Match(200, 40, 2.0)}  # its share of the bytes


def test_sending_again_keeps_the_tokens_and_when_they_were_told() -> None:
    index = PlacementIndex()
    index.place("x", keys("ab"), 1.0, prompt_tokens=40)
    index.place("x", keys("abc"), 5.0)
    assert index.match(keys("ab"), 5.0) == {"x": Match(200, 40, 1.0)}
    assert index.match(keys("abc"), 5.0) == {"x": Match(300, None, 0.0)}


def test_a_belief_grows_too_old() -> None:
    index = PlacementIndex(ttl_s=60)
    index.place("x", keys("a"), 0.0)
    assert sizes(index, "a", now=60.0) == {"x": 100}
    assert sizes(index, "a", now=60.1) == {}


def test_an_answer_makes_it_young_again_and_a_request_alone_does_not() -> None:
    index = PlacementIndex(ttl_s=60)
    index.place("x", keys("ab"), 0.0)
    index.place("x", keys("a"), 50.0, prompt_tokens=10)
    index.place("x", keys("ab"), 50.0)
    assert sizes(index, "ab", now=100.0) == {"x": 100}


def test_tokens_of_a_belief_that_has_ended_are_not_taken_up_again() -> None:
    index = PlacementIndex()
    index.place("x", keys("a"), 0.0, prompt_tokens=40)
    index.expire("x", before=5.0)
    index.place("x", keys("a"), 6.0)
    assert index.match(keys("a"), 6.0) == {"x": Match(100, None, 0.0)}


def test_expiry_voids_one_endpoints_older_placements() -> None:
    index = PlacementIndex()
    index.place("x", keys("a"), 1.0)
    index.place("y", keys("a"), 1.0)
    index.place("x", keys("b"), 2.0)
    index.expire("x", before=2.0)
    assert sizes(index, "a") == {"y": 100}
    assert sizes(index, "b") == {"x": 100}  # touched at that very time: still there


def test_an_earlier_expiry_takes_nothing_back() -> None:
    index = PlacementIndex()
    index.place("x", keys("a"), 1.0)
    index.expire("x", before=2.0)
    index.expire("x", before=0.0)
    assert sizes(index, "a") == {}


def test_of_a_prompt_the_end_makes_room_before_the_beginning() -> None:
    index = PlacementIndex(capacity=3)
    index.place("x", keys("abc"), 0.0)
    index.place("x", keys("q"), 1.0)
    assert sizes(index, "abc") == {"x": 200}
    assert len(index) == 3


def test_the_least_recently_touched_prompt_makes_room_first() -> None:
    index = PlacementIndex(capacity=4)
    index.place("x", keys("ab"), 0.0)
    index.place("x", keys("qr"), 1.0)
    index.place("x", keys("ab"), 2.0)
    index.place("x", keys("st"), 3.0)
    assert (sizes(index, "ab"), sizes(index, "qr")) == ({"x": 200}, {})


def test_a_shared_beginning_outlives_the_ends() -> None:
    index = PlacementIndex(capacity=4)
    for path in ("ab", "ac", "ad", "ae"):
        index.place("x", keys(path), 0.0)
    assert sizes(index, "ab") == {"x": 100}
    assert sizes(index, "ae") == {"x": 200}


def test_forgetting_takes_back_what_is_longer_than_the_match() -> None:
    index = PlacementIndex()
    index.place("x", keys("ab"), 0.0, prompt_tokens=40)
    index.place("x", keys("abcd"), 1.0)
    index.forget("x", keys("abcd"), beyond=200)
    assert sizes(index, "abcd") == {"x": 200}
    assert len(index) == 2


def test_forgetting_leaves_other_endpoints_alone() -> None:
    index = PlacementIndex()
    index.place("x", keys("ab"), 0.0)
    index.place("y", keys("ab"), 0.0)
    index.forget("x", keys("abc"), beyond=0)  # the last key has been dropped already
    assert sizes(index, "ab") == {"y": 200}


paths = st.text("abc", min_size=1, max_size=5)
steps = st.lists(st.tuples(st.sampled_from("xy"), paths), max_size=30)


@given(steps, paths)
def test_with_room_for_all_the_index_is_a_plain_search(
    placed: list[tuple[str, str]], asked: str
) -> None:
    index = PlacementIndex()
    for endpoint, path in placed:
        index.place(endpoint, keys(path), 0.0)

    def longest(endpoint: str) -> int:
        known = {p[: i + 1] for e, p in placed if e == endpoint for i in range(len(p))}
        return 100 * max((i + 1 for i in range(len(asked)) if asked[: i + 1] in known), default=0)

    assert sizes(index, asked) == {e: n for e in "xy" if (n := longest(e))}


@given(steps, st.integers(1, 8))
def test_without_room_it_stays_bounded_and_keeps_beginnings(
    placed: list[tuple[str, str]], capacity: int
) -> None:
    index = PlacementIndex(capacity=capacity)
    for endpoint, path in placed:
        index.place(endpoint, keys(path), 0.0)
        assert len(index) <= capacity
        kept = min(len(path), capacity)
        assert sizes(index, path)[endpoint] == 100 * kept


@pytest.mark.parametrize("capacity", [1, 5])
def test_a_prompt_longer_than_the_index_keeps_its_beginning(capacity: int) -> None:
    index = PlacementIndex(capacity=capacity)
    index.place("x", keys("abcdefgh"), 0.0)
    assert sizes(index, "abcdefgh") == {"x": 100 * capacity}
