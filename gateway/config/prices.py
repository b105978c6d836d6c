"""Prices grow old: what is doubtful about an endpoint's, said at start and by `gateway check`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

from gateway.config.tree import Endpoint

STALE = timedelta(days=90)


def price_doubts(endpoint: Endpoint, today: date) -> Iterator[str]:
    for model, price in endpoint.prices.items():
        if model not in endpoint.models:
            yield f"it has a price for {model!r}, which it does not serve"
        if price.ends is not None and price.ends < today:
            yield f"the price of {model!r} ended on {price.ends}"
        elif price.as_of is not None and today - price.as_of > STALE:
            yield f"the price of {model!r} was last looked at on {price.as_of}"
