"""The block cache: what is reused, what is evicted, and that it never holds too much."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.replay.blocks import BlockCache


def used_up(cache: BlockCache, *ids: int, now: float) -> None:
    """Somebody computed these, and let go of them."""
    assert cache.acquire(ids, answer=0) is not None
    cache.computed(ids)
    cache.release(ids, answer=0, now=now)


def test_only_the_computed_beginning_is_reused() -> None:
    cache = BlockCache(10)
    used_up(cache, 1, 2, 3, now=1.0)
    assert cache.acquire((1, 2, 9, 3), answer=0) == 2


def test_a_block_is_reused_by_others_once_it_is_computed() -> None:
    cache = BlockCache(10)
    cache.acquire((1, 2), answer=0)
    assert cache.acquire((1, 2), answer=0) == 0
    cache.computed((1,))
    assert cache.acquire((1, 2), answer=0) == 1
    assert cache.used == 2  # shared, not copied


def test_the_least_recently_used_goes_first_and_a_prompts_end_before_its_beginning() -> None:
    cache = BlockCache(4)
    used_up(cache, 1, 2, now=1.0)
    used_up(cache, 3, 4, now=2.0)
    used_up(cache, 5, now=3.0)
    assert cache.evicted_touched == 1.0
    assert cache.acquire((1, 2), answer=0) == 1  # 2 went, 1 did not


def test_what_is_in_use_is_never_evicted() -> None:
    cache = BlockCache(4)
    cache.acquire((1, 2), answer=1)
    assert cache.acquire((3, 4), answer=0) is None
    assert cache.acquire((1, 2, 3), answer=0) == 0  # pinned blocks are shared
    assert cache.in_use == 4


def test_an_answers_blocks_are_room_and_nothing_to_reuse() -> None:
    cache = BlockCache(4)
    cache.acquire((1,), answer=3)
    cache.computed((1,))
    assert cache.used == 4
    cache.release((1,), answer=3, now=1.0)
    assert (cache.used, cache.in_use) == (1, 0)


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(0, 3)), max_size=40),
    st.randoms(use_true_random=False),
)
def test_a_cache_never_exceeds_its_size_and_ends_with_nothing_in_use(
    capacity: int, asked: list[tuple[int, int, int]], draws: random.Random
) -> None:
    cache = BlockCache(capacity)
    held: list[tuple[tuple[int, ...], int]] = []
    for turn, (family, length, answer) in enumerate(asked):
        ids = tuple(family * 10 + i for i in range(length))
        if cache.acquire(ids, answer) is not None:
            held.append((ids, answer))
        assert cache.used <= capacity
        if held and turn % 2:
            ids, answer = held.pop(draws.randrange(len(held)))
            cache.computed(ids)
            cache.release(ids, answer, now=float(turn))
    for ids, answer in held:
        cache.computed(ids)
        cache.release(ids, answer, now=100.0)
    assert cache.in_use == 0
    assert cache.used <= capacity


@pytest.mark.parametrize("capacity", [3, 100])
def test_a_request_without_ids_takes_room_all_the_same(capacity: int) -> None:
    cache = BlockCache(capacity)
    assert cache.acquire((), answer=3) == 0
    assert cache.used == 3
