"""
What a gateway may ask of endpoints beyond its clients' requests.

When a fleet fails under its load, each retry adds to that load and keeps it down. So extra tries
are a share of the live requests, and never more: the other clients hear of the failure at once.
(The same idea as the retry budgets of Finagle and Envoy.)
"""

from __future__ import annotations

from gateway.window import Window

WINDOW_S = 10.0


class ExtraTries:
    """At most `share` of the requests of the last 10 seconds, but `least` at any rate: a gateway
    with a request a second could not retry at all otherwise."""

    def __init__(self, share: float = 0.2, least: int = 3) -> None:
        self.share = share
        self.least = least
        self._requests = Window(WINDOW_S)
        self._taken = Window(WINDOW_S)

    def requested(self, now: float) -> None:
        """A client asks, which allows for a share of one more."""
        self._requests.add(now)

    def take(self, now: float) -> bool:
        """One extra try, if there is one left."""
        if self._taken.total(now) >= max(self.least, self.share * self._requests.total(now)):
            return False
        self._taken.add(now)
        return True
