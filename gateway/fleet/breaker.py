"""
Stops sending to an endpoint that keeps failing, and finds out when it is back.

    closed ── 5 failures in a row, or half of at least 10 within 30 s ──> ejected
    ejected ── after 5 s, 10 s, 20 s … 300 s, each jittered ──> half open
    half open ── one request at a time ──> closed, or ejected for longer

Only the endpoint's own failures count. What a caller did wrong, a hang-up, and a limit that it told
of, say nothing of its health. Whether an ejection is heeded is the decider's to say, which knows
whether anybody else is left.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.window import Window

IN_A_ROW = 5
SHARE, AT_LEAST, WINDOW_S = 0.5, 10, 30.0
FIRST_S, LONGEST_S = 5.0, 300.0


class Breaker:
    """`draw` is uniform in [0, 1). Times are monotonic, in seconds."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._in_a_row = 0
        self._answers, self._failures = Window(WINDOW_S), Window(WINDOW_S)
        self._until: float | None = None  # ejected; None: closed
        self._probe: object | None = None  # the one that runs
        self._ejections = 0  # one after the other, each longer
        self._calm_at = 0.0  # when a closed one may forget them

    def ejected(self, now: float) -> bool:
        """Nothing must be sent: neither a request, nor a probe beyond the one that is there."""
        return self._until is not None and (now < self._until or self._probe is not None)

    @property
    def tripped(self) -> bool:
        """Not closed: once it is no longer ejected, the next request finds out."""
        return self._until is not None

    def began(self, now: float) -> object | None:
        """A request is sent. Where it is the probe: a token of it, for `let_go` at its end."""
        if self._until is None or self.ejected(now):
            return None  # closed; or there was nobody else
        self._probe = object()
        return self._probe

    def answers(self, now: float) -> None:
        """It began to answer: an ejected one is back."""
        if self._until is not None:
            self._close(now)

    def succeeded(self, now: float) -> None:
        self._answers.add(now)
        self._in_a_row = 0
        self.answers(now)

    def failed(self, now: float) -> None:
        self._answers.add(now)
        self._failures.add(now)
        self._in_a_row += 1
        if self._until is not None:
            if self._probe is not None:
                self._eject(now)
        elif self._in_a_row >= IN_A_ROW or self._often(now):
            self._eject(now)

    def let_go(self, probe: object) -> None:
        """A probe ended; if it has told nothing, another may be sent."""
        if self._probe is probe:
            self._probe = None

    def _often(self, now: float) -> bool:
        answers = self._answers.total(now)
        return answers >= AT_LEAST and self._failures.total(now) >= SHARE * answers

    def _eject(self, now: float) -> None:
        if self._until is None and now >= self._calm_at:
            self._ejections = 0
        length = min(LONGEST_S, FIRST_S * 2 ** min(self._ejections, 10)) * (
            0.8 + 0.4 * self._draw()
        )
        self._ejections += 1
        self._until = now + length
        self._calm_at = now + 3 * length
        self._probe = None

    def _close(self, now: float) -> None:
        self._until = None
        self._probe = None
        self._in_a_row = 0
        self._answers.clear()
        self._failures.clear()
