"""What is doubtful about a config that is good: said at start and by `gateway check`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

from gateway.admission.keys import OPEN
from gateway.config.tree import Config, Endpoint

STALE = timedelta(days=90)


def doubts(config: Config, today: date) -> Iterator[str]:
    for name, endpoint in config.endpoints.items():
        for doubt in price_doubts(endpoint, today):
            yield f"{name}: {doubt}"
    if config.state.redis is None and config.state.keys_file is None:
        yield from _tenant_doubts(config)


def price_doubts(endpoint: Endpoint, today: date) -> Iterator[str]:
    """Prices grow old."""
    for model, price in endpoint.prices.items():
        if model not in endpoint.models:
            yield f"it has a price for {model!r}, which it does not serve"
        if price.ends is not None and price.ends < today:
            yield f"the price of {model!r} ended on {price.ends}"
        elif price.as_of is not None and today - price.as_of > STALE:
            yield f"the price of {model!r} was last looked at on {price.as_of}"


def _tenant_doubts(config: Config) -> Iterator[str]:
    """Where all keys stand in the config. Never refused: a key may be added later."""
    known = {key.tenant for key in config.keys} or {OPEN.tenant}
    for name in config.tenants:
        if name not in known:
            yield f"tenants.{name}: no key is of this tenant"
    for index, rule in enumerate(config.policy_rules):
        if rule.match.tenant is not None and rule.match.tenant not in known:
            yield f"policy[{index}].match.tenant: no key is of the tenant {rule.match.tenant!r}"
