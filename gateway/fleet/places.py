"""
Who has an endpoint's places, where it takes only so many requests at a time.

A place is for whoever comes, as long as there are enough. A tenant that has its share of them, by
weight among the tenants of late, leaves some to the others: to each what it had lately at most,
within its share, and one in `KEPT` to whoever comes from nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KEPT, FEW = 16, 8
"""Of fewer places than `FEW`, none is kept: it would be too large a part of them."""

LATELY_S = 10.0
"""What a tenant had counts for so long, and for twice as long at most."""

MOST_USERS = 1000


@dataclass(slots=True)
class Use:
    """One tenant's places."""

    held: int = 0
    promised: int = 0  # by the queue, to a request that is about to decide
    elsewhere: int = 0  # other gateways', when last heard
    most: int = 0  # at a time, in this stretch of LATELY_S
    before: int = 0  # and in the one before it

    @property
    def now(self) -> int:
        return self.held + self.promised + self.elsewhere

    @property
    def lately(self) -> int:
        return max(self.most, self.before)


@dataclass(slots=True)
class Places:
    weights: Mapping[str, float] = field(default_factory=dict)  # by tenant; others have 1
    users: dict[str, Use] = field(default_factory=dict)
    _turned: float = 0.0

    def began(self, tenant: str, now: float) -> None:
        self._pass(now)
        use = self._use(tenant)
        use.held += 1
        use.most = max(use.most, use.now)

    def ended(self, tenant: str) -> None:
        self.users[tenant].held -= 1

    def promise(self, tenant: str, count: int) -> None:
        self._use(tenant).promised += count

    def heard(self, elsewhere: Mapping[str, int]) -> None:
        for use in self.users.values():
            use.elsewhere = 0
        for tenant, count in elsewhere.items():
            use = self._use(tenant)
            use.elsewhere = count
            use.most = max(use.most, use.now)

    def kept_from(self, tenant: str, limit: int, now: float) -> int:
        """Of `limit` places, how many this tenant has to leave free."""
        self._pass(now)  # what is kept must not be so for ever because nobody may begin
        use = self.users.get(tenant)
        mine = use.now if use is not None else 0
        if mine == 0:
            return 0
        others = {t: u for t, u in self.users.items() if u.lately and t != tenant}
        each = limit / (self._weight(tenant) + sum(map(self._weight, others)))
        spare = self.spare(limit)
        if mine + 1 <= min(each * self._weight(tenant), limit - spare):
            return 0
        claims = (min(int(each * self._weight(t)), u.lately) - u.now for t, u in others.items())
        return max(spare, sum(max(0, claim) for claim in claims))

    def spare(self, limit: int) -> int:
        """Of `limit` places, those for whoever comes from nowhere: where there may be such."""
        several = len(self.users) > 1 or any(t not in self.users for t in self.weights)
        return max(1, limit // KEPT) if several and limit >= FEW else 0

    def _weight(self, tenant: str) -> float:
        return self.weights.get(tenant, 1.0)

    def _use(self, tenant: str) -> Use:
        use = self.users.get(tenant)
        if use is None:
            use = self.users[tenant] = Use()
        return use

    def _pass(self, now: float) -> None:
        """Another stretch begins, when it is time."""
        if now - self._turned < LATELY_S:
            return
        late = now - self._turned >= 2 * LATELY_S
        self._turned = now
        for use in self.users.values():
            use.before, use.most = 0 if late else use.most, use.now
        if len(self.users) > MOST_USERS:
            self.users = {t: u for t, u in self.users.items() if u.now or u.lately}
