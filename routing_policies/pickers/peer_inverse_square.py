"""OpenRouter's first price rule: at random, with a weight of 1 over the price squared.

As its provider-routing documentation described it before it compared effective prices: of the
providers that are stable, one nine times as often as another that is three times as dear. Its price
is the list price, here input and output added. The others follow from cheap to dear. Whatever is
free goes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from routing_policies.base import Context, Ranked


@dataclass(frozen=True)
class PeerInverseSquare:
    exponent: float = 2.0

    def pick(self, ranked: Sequence[Ranked], context: Context) -> Sequence[Ranked]:
        if not ranked:
            return ()
        by_price = sorted(ranked, key=_price)
        free = [1.0 for r in by_price if _price(r) == 0]
        weights = free or [_price(r) ** -self.exponent for r in by_price]
        running = list(accumulate(weights))
        drawn = context.draw * running[-1]
        first = by_price[sum(total <= drawn for total in running[:-1])]
        return (first, *(r for r in by_price if r is not first))


def _price(ranked: Ranked) -> float:
    return ranked.candidate.price.input + ranked.candidate.price.output
