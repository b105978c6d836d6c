"""Loads made up here, for what public traces lack: long agent sessions and hot prefixes.

Arrivals do not wait for answers (the next turn of a session comes after the time that its answer
would take on an idle engine), so that every policy is asked exactly the same at the same time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count, islice

from gateway.replay.trace import Trace, TraceRequest

BLOCK_SIZE = 512


def made_up(name: str, *, requests: int, families: int, draws: random.Random) -> Trace:
    """`agents` or `hot`, with so many requests; `families` counts for `hot` only."""
    source = Agents().requests(draws) if name == "agents" else Hot(families).requests(draws)
    return Trace(name, list(islice(source, requests)), BLOCK_SIZE)


@dataclass(frozen=True, slots=True)
class Agents:
    """Conversations that grow, with short gaps between turns. Ranges are (least, most) tokens.

    They follow LMCache's public agent trace: 29 turns and a gap of 1.1 s at the median, prompts
    from 4k to 35k tokens, nothing shared between sessions.
    """

    sessions_per_s: float = 0.2
    turns: tuple[int, int] = (10, 45)
    first: tuple[int, int] = (3_000, 8_000)
    added: tuple[int, int] = (200, 1_500)
    output: tuple[int, int] = (60, 400)
    gap_s: float = 1.1
    token_s: float = 0.025  # that a token of an answer takes

    def requests(self, draws: random.Random) -> Iterator[TraceRequest]:
        """Endless, by arrival."""
        ids = count()
        now = 0.0
        ahead: list[tuple[float, int, TraceRequest, Iterator[TraceRequest]]] = []  # heap
        for number in count():
            now += draws.expovariate(self.sessions_per_s)
            while ahead and ahead[0][0] <= now:
                _, session, turn, later = heappop(ahead)
                yield turn
                if (following := next(later, None)) is not None:
                    heappush(ahead, (following.arrival_s, session, following, later))
            turns = self._session(draws, ids, now)
            first = next(turns)
            heappush(ahead, (first.arrival_s, number, first, turns))

    def _session(
        self, draws: random.Random, ids: Iterator[int], now: float
    ) -> Iterator[TraceRequest]:
        prompt = draws.randint(*self.first)
        whole: list[int] = []
        for _ in range(draws.randint(*self.turns)):
            output = draws.randint(*self.output)
            whole += islice(ids, prompt // BLOCK_SIZE - len(whole))
            yield TraceRequest(now, prompt, output, _with_tail(whole, prompt, ids))
            now += output * self.token_s + draws.expovariate(1 / self.gap_s)
            prompt += output + draws.randint(*self.added)


@dataclass(frozen=True, slots=True)
class Hot:
    """Requests that each begin with one of `families` long shared prefixes."""

    families: int = 40
    per_s: float = 16.0
    prefix_blocks: int = 32
    own: tuple[int, int] = (200, 1_500)
    output: tuple[int, int] = (50, 300)

    def requests(self, draws: random.Random) -> Iterator[TraceRequest]:
        """Endless, by arrival."""
        ids = count()
        prefixes = [list(islice(ids, self.prefix_blocks)) for _ in range(self.families)]
        now = 0.0
        while True:
            now += draws.expovariate(self.per_s)
            own = draws.randint(*self.own)
            whole = [*draws.choice(prefixes), *islice(ids, own // BLOCK_SIZE)]
            prompt = self.prefix_blocks * BLOCK_SIZE + own
            output = draws.randint(*self.output)
            yield TraceRequest(now, prompt, output, _with_tail(whole, prompt, ids))


def _with_tail(whole: list[int], prompt: int, ids: Iterator[int]) -> tuple[int, ...]:
    """The whole blocks, and the cut one behind them, which nobody shares."""
    return (*whole, next(ids)) if prompt % BLOCK_SIZE else tuple(whole)
