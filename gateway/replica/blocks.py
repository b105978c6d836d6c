"""
The pool of KV blocks, and the prefix cache that lives in it. Ids and hashes only, no tensors.

A full block is named by a hash over its tokens and the name of the block before it, so one name
stands for a whole prefix. Names are kept per tenant: the chain is keyed, and with another key
every name differs. Each block is in one of three states:

    free     no table holds it and it has no name
    cached   no table holds it, its name can still be matched; evicted when blocks run short
    owned    in the tables of one or more requests; a named one may be shared

Eviction is LRU. A block is *touched* when a table takes it and when a table lets go of it; only
the last letting go counts, for an owned block is never evicted. Cached blocks stand in the order
of that time, and a table lets go of its last block first. So a block never outlives the one
before it in the chain, and the times of evicted blocks only grow: the latest of them, the
*horizon*, separates the past of which nothing is promised from the time since, of which everything
that was touched is still there.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from gateway.replica.backends.base import BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class Chain:
    """How the blocks of one tenant and one model are named."""

    root: bytes  # stands for the model, before the first block
    key: bytes = field(repr=False)

    @classmethod
    def of(cls, fingerprint: str, salt: bytes) -> Chain:
        """The empty salt is the public chain; no other salt leads to it."""
        root = blake2b(fingerprint.encode(), digest_size=16).digest()
        return cls(root, key=blake2b(salt, digest_size=32).digest())

    def extend(self, hashes: list[bytes], tokens: array[int]) -> None:
        """Appends the names of the full blocks of `tokens` (int32) that `hashes` does not have."""
        for start in range(len(hashes) * BLOCK_SIZE, len(tokens) - BLOCK_SIZE + 1, BLOCK_SIZE):
            parent = hashes[-1] if hashes else self.root
            content = tokens[start : start + BLOCK_SIZE].tobytes()
            hashes.append(blake2b(parent + content, digest_size=16, key=self.key).digest())


class BlockPool:
    """`blocks` ids, 0 .. blocks-1, each free, cached or owned. `clock` must not go back."""

    def __init__(self, blocks: int, clock: Callable[[], float]) -> None:
        self.total = blocks
        self.horizon: float | None = None  # None: nothing has been evicted yet
        self._clock = clock
        self._references = [0] * blocks  # tables that hold the block
        self._names: list[bytes | None] = [None] * blocks
        self._by_name: dict[bytes, int] = {}
        self._free = list(range(blocks))
        self._cached: OrderedDict[int, float] = OrderedDict()  # id -> last touch, oldest first

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def cached(self) -> int:
        return len(self._cached)

    @property
    def owned(self) -> int:
        return self.total - self.free - self.cached

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks of the longest known prefix. Changes nothing."""
        found = []
        for name in hashes:
            block = self._by_name.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def holds(self, name: bytes) -> bool:
        return name in self._by_name

    def can_take(self, count: int, *, beside: Sequence[int] = ()) -> bool:
        """Whether `count` blocks can be taken after `beside` has been acquired."""
        wanted = count + sum(1 for block in beside if not self._references[block])
        return wanted <= self.free + self.cached

    def acquire(self, blocks: Iterable[int]) -> None:
        """One more table holds these matched blocks."""
        for block in blocks:
            self._references[block] += 1
            self._cached.pop(block, None)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks of unknown content for one table; None, and no change, if too few."""
        if not self.can_take(count):
            return None
        while len(self._free) < count:
            self._evict()
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._references[block] = 1
        return taken

    def publish(self, table: array[int], index: int, name: bytes) -> None:
        """Names the private block `table[index]`, which is now full and computed.

        If an equal block was named earlier, that one takes its place in the table: a name has one
        block, and whoever holds the content touches it. No step may be reading the table.
        """
        block = table[index]
        first = self._by_name.setdefault(name, block)
        if first == block:
            self._names[block] = name
            return
        self.acquire([first])
        table[index] = first
        self._references[block] = 0
        self._free.append(block)

    def release(self, table: Sequence[int]) -> None:
        """The table lets go of its blocks: named ones become cached, the last one oldest."""
        now = self._clock()
        for block in reversed(table):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if self._names[block] is None:
                self._free.append(block)
            else:
                self._cached[block] = now

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Raises AssertionError unless the books balance; `tables` are all that hold blocks."""
        held = Counter(block for table in tables for block in table)
        assert self._references == [held[block] for block in range(self.total)], "references"
        owned = {block for block in range(self.total) if self._references[block]}
        everywhere = [*self._free, *self._cached, *owned]
        assert sorted(everywhere) == list(range(self.total)), "free + cached + owned"
        named = {name: block for block, name in enumerate(self._names) if name is not None}
        assert named == self._by_name, "one block for each name"
        assert all(self._names[block] is None for block in self._free), "free blocks have no name"
        assert all(self._names[block] is not None for block in self._cached), "cached ones have"
        touched = list(self._cached.values())
        assert touched == sorted(touched), "cached blocks in the order of their last touch"

    def _evict(self) -> None:
        block, self.horizon = self._cached.popitem(last=False)
        name = self._names[block]
        assert name is not None
        del self._by_name[name]
        self._names[block] = None
        self._free.append(block)
