"""The placement index: which endpoint was sent a request that began like this one.

It maps prefix keys (hashes of request bytes, keyed by tenant) to endpoints with the time of their
last touch. It knows no tokens' hashes and asks nobody: what it believes is corrected by what
replicas report with their answers. Three facts make a belief end: the endpoint started anew (its
epoch), it evicted what was touched that long ago (its horizon), or the belief grew too old.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gateway.domain import PrefixKey


class Placement(NamedTuple):
    """One endpoint under one key."""

    touched: float  # seconds, monotonic
    tokens: int | None  # prompt tokens up to the key; None until an answer has told
    confirmed: float  # the touch that this answer told of; 0 until then


class Match(NamedTuple):
    """The longest beginning of a request that an endpoint is believed to have cached."""

    size: int  # canonical bytes
    tokens: int | None
    touched: float  # the last touch that an answer has confirmed; a request only sent is no proof
    hinted: bool = False  # no bytes are known there: a caller's hint pointed there


NO_MATCH = Match(size=0, tokens=0, touched=0.0)


class PlacementIndex:
    """Bounded: least recently touched keys go first, a prompt's end before its beginning."""

    def __init__(self, *, capacity: int = 100_000, ttl_s: float = 3600.0) -> None:
        self._capacity = capacity
        self._ttl_s = ttl_s
        self._keys: OrderedDict[bytes, dict[str, Placement]] = OrderedDict()
        self._gone_before: dict[str, float] = {}  # endpoint -> placements before this are void

    def __len__(self) -> int:
        return len(self._keys)

    def match(self, keys: Sequence[PrefixKey], now: float) -> Mapping[str, Match]:
        """The longest match of each endpoint; endpoints without any are left out."""
        known = []
        for key in keys:
            if (placements := self._keys.get(key.digest)) is None:
                break  # a longer key is never known without the shorter ones
            known.append((key, placements))
        found: dict[str, Match] = {}
        oldest, gone_before = now - self._ttl_s, self._gone_before
        for key, placements in reversed(known):
            # Who is under a key is under all shorter ones too.
            if len(placements) > len(found):
                for endpoint, (touched, tokens, confirmed) in placements.items():
                    # As `_holds` has it, without a call: there are many.
                    if (
                        endpoint not in found
                        and touched >= oldest
                        and touched >= gone_before.get(endpoint, 0.0)
                    ):
                        match = (key.size, tokens, confirmed, False)
                        found[endpoint] = tuple.__new__(Match, match)
        return found

    def place(
        self,
        endpoint: str,
        keys: Sequence[PrefixKey],
        now: float,
        prompt_tokens: int | None = None,
    ) -> None:
        """Believe that `endpoint` has, or is about to have, everything that `keys` name.

        Called when a request is sent, so that the next of a burst already finds it, and again
        when its answer has told `prompt_tokens`, the tokens up to the last key.
        """
        index = self._keys
        for key in reversed(keys):  # longest first, so that the shortest is the most recent
            if (placements := index.get(key.digest)) is None:
                placements = index[key.digest] = {}
            else:
                index.move_to_end(key.digest)
            known = placements.get(endpoint)
            if prompt_tokens is not None:
                touched = max(now, known.touched) if known else now
                tokens = prompt_tokens * key.size // keys[-1].size
                placements[endpoint] = Placement(touched, tokens, confirmed=now)
            elif not known or not self._holds(endpoint, known, now):
                # What is believed already is not touched before an answer says so: the request
                # may come to nothing.
                placements[endpoint] = Placement(now, None, confirmed=0.0)
        while len(self._keys) > self._capacity:
            self._keys.popitem(last=False)

    def forget(self, endpoint: str, keys: Sequence[PrefixKey], beyond: int) -> None:
        """Take back a placement that came to nothing, of keys longer than `beyond` bytes."""
        for key in keys:
            placements = self._keys.get(key.digest)
            if key.size > beyond and placements is not None:
                placements.pop(endpoint, None)
                if not placements:
                    del self._keys[key.digest]

    def expire(self, endpoint: str, before: float) -> None:
        """Whatever `endpoint` last touched before this time is gone there."""
        self._gone_before[endpoint] = max(before, self._gone_before.get(endpoint, before))

    def _holds(self, endpoint: str, placement: Placement, now: float) -> bool:
        oldest = max(self._gone_before.get(endpoint, 0.0), now - self._ttl_s)
        return placement.touched >= oldest
