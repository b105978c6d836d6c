"""What was asked, when, and which prompts begin alike."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby


class TraceError(ValueError):
    """Names the file, the line, and what is wrong there."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request. Two of them share a block exactly when their prompts are equal up to its end."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()  # ids of the prompt's blocks, the last one cut; () is not known
    tenant: str = "default"


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    requests: Sequence[TraceRequest]  # by arrival
    block_size: int  # tokens

    def limited(self, count: int | None) -> Trace:
        """The first `count` requests; all of them for None."""
        return replace(self, requests=self.requests[:count])

    def at_load(self, factor: float) -> Trace:
        """The same requests, arriving `factor` times as fast."""
        faster = [replace(r, arrival_s=r.arrival_s / factor) for r in self.requests]
        return replace(self, requests=faster)

    def jittered(self, draws: random.Random) -> Trace:
        """Requests that share a time stamp, spread evenly at random up to the next stamp.

        Public traces round their stamps (Mooncake's conversations to 3 s); without this every
        burst would hit the fleet in one instant.
        """
        groups = [list(g) for _, g in groupby(self.requests, key=lambda r: r.arrival_s)]
        spread: list[TraceRequest] = []
        for group, later in zip(groups, [*groups[1:], groups[-1]] if groups else [], strict=True):
            gap = later[0].arrival_s - group[0].arrival_s if len(group) > 1 else 0.0
            spread += [replace(r, arrival_s=r.arrival_s + gap * draws.random()) for r in group]
        return replace(self, requests=sorted(spread, key=lambda r: r.arrival_s))

    def ideal_hit(self) -> float:
        """Share of the prompt tokens that one replica with an endless cache would not compute."""
        seen: set[int] = set()
        shared = 0
        for request in self.requests:
            known = next(
                (i for i, block in enumerate(request.blocks) if block not in seen),
                len(request.blocks),
            )
            # The last token of a prompt is always computed: its logits start the answer.
            shared += min(known * self.block_size, request.prompt_tokens - 1)
            seen.update(request.blocks)
        return shared / max(1, sum(r.prompt_tokens for r in self.requests))
