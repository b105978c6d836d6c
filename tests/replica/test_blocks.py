from __future__ import annotations

from array import array
from collections.abc import Sequence

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.replica.backends.base import BLOCK_SIZE
from gateway.replica.blocks import BlockPool, Chain
from tests.support.clock import ManualClock

PUBLIC = Chain.of("model", b"")


def named(path: Sequence[int], chain: Chain = PUBLIC) -> list[bytes]:
    """The names of the blocks whose tokens are 16 times each number of `path`."""
    hashes: list[bytes] = []
    chain.extend(hashes, array("i", [token for token in path for _ in range(BLOCK_SIZE)]))
    return hashes


def computed(pool: BlockPool, path: Sequence[int]) -> array[int]:
    """The table of a request that has computed `path`, hits included."""
    hashes = named(path)
    hits = pool.match(hashes)
    pool.acquire(hits)
    taken = pool.take(len(path) - len(hits))
    assert taken is not None
    table = array("i", hits + taken)
    for index in range(len(hits), len(path)):
        pool.publish(table, index, hashes[index])
    return table


def test_only_full_blocks_have_names() -> None:
    hashes: list[bytes] = []
    tokens = array("i", range(BLOCK_SIZE - 1))
    PUBLIC.extend(hashes, tokens)
    assert hashes == []
    tokens.append(7)
    PUBLIC.extend(hashes, tokens)
    assert len(hashes) == 1


def test_a_name_stands_for_the_whole_prefix() -> None:
    assert named([1, 2])[1] != named([3, 2])[1]
    assert named([1, 2])[:1] == named([1, 3])[:1]


def test_names_differ_between_salts_and_between_models() -> None:
    chains = [PUBLIC, Chain.of("model", b"a"), Chain.of("model", b"b"), Chain.of("other", b"")]
    assert len({named([1], chain)[0] for chain in chains}) == len(chains)


def test_what_was_let_go_is_found_again() -> None:
    pool = BlockPool(4, ManualClock())
    table = computed(pool, [1, 2])
    pool.release(table)
    assert pool.match(named([1, 2, 3])) == list(table)
    assert (pool.free, pool.cached, pool.owned) == (2, 2, 0)


def test_free_blocks_are_taken_before_cached_ones() -> None:
    pool = BlockPool(4, ManualClock())
    pool.release(computed(pool, [1, 2]))
    assert pool.take(2) is not None
    assert len(pool.match(named([1, 2]))) == 2
    assert pool.horizon is None


def test_of_one_chain_the_tail_is_evicted_before_the_head() -> None:
    pool = BlockPool(3, ManualClock())
    pool.release(computed(pool, [1, 2, 3]))
    assert pool.take(1) is not None
    assert len(pool.match(named([1, 2, 3]))) == 2


def test_too_few_blocks_change_nothing() -> None:
    pool = BlockPool(3, ManualClock())
    pool.release(computed(pool, [1, 2]))
    assert pool.take(4) is None
    assert len(pool.match(named([1, 2]))) == 2


def test_blocks_that_are_about_to_be_acquired_are_not_counted_as_room() -> None:
    pool = BlockPool(3, ManualClock())
    pool.release(computed(pool, [1, 2]))
    hits = pool.match(named([1, 2]))
    assert pool.can_take(1, beside=hits)
    assert not pool.can_take(2, beside=hits)


def test_an_equal_block_is_swapped_for_the_first_one() -> None:
    pool = BlockPool(4, ManualClock())
    first, second = (array("i", pool.take(1) or []) for _ in range(2))
    for table in first, second:
        pool.publish(table, 0, named([1])[0])
    assert first == second
    pool.check_integrity([first, second])


def test_the_horizon_is_the_last_touch_of_the_latest_evicted_block() -> None:
    clock = ManualClock()
    pool = BlockPool(2, clock)
    for path in [1], [2]:
        pool.release(computed(pool, path))
        clock.advance(10)
    pool.release(computed(pool, [1]))  # a hit, let go at 20
    assert pool.take(1) is not None
    assert pool.horizon == clock.now - 10
    assert pool.match(named([1]))


class Promise(RuleBasedStateMachine):
    """What was touched after the horizon is still there, in full; so is what is in use."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.pool = BlockPool(8, self.clock)
        self.open: list[tuple[array[int], tuple[int, ...], int]] = []  # table, path, published
        self.touched: dict[tuple[int, ...], float] = {}  # chain -> when a table let go of it

    @rule(path=st.lists(st.integers(0, 1), min_size=1, max_size=5).map(tuple))
    def start(self, path: tuple[int, ...]) -> None:
        hits = self.pool.match(named(path))
        if not self.pool.can_take(len(path) - len(hits), beside=hits):
            return
        self.pool.acquire(hits)
        taken = self.pool.take(len(path) - len(hits))
        assert taken is not None
        self.open.append((array("i", hits + taken), path, len(hits)))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def compute_a_block(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.open) - 1))
        table, path, published = self.open[index]
        if published < len(path):
            self.pool.publish(table, published, named(path)[published])
            self.open[index] = (table, path, published + 1)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        table, path, published = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.pool.release(table)
        for length in range(1, published + 1):
            self.touched[path[:length]] = self.clock.now

    @rule(seconds=st.sampled_from([0, 1]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def what_was_touched_after_the_horizon_is_there(self) -> None:
        for path, when in self.touched.items():
            if self.pool.horizon is None or when > self.pool.horizon:
                assert len(self.pool.match(named(path))) == len(path)
        for table, path, published in self.open:
            assert self.pool.match(named(path[:published])) == list(table[:published])

    @invariant()
    def the_books_balance(self) -> None:
        self.pool.check_integrity([table for table, _, _ in self.open])


TestPromise = Promise.TestCase
TestPromise.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
