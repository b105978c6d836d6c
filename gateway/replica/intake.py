"""The border between the engine's workers and all others: what comes in, and how much of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from gateway.errors import RateLimited, Unavailable
from gateway.replica.pace import Pace
from gateway.replica.request import Submission


@dataclass(slots=True)
class Arrivals:
    """Requests that the scheduler has not seen. Equal prompts of one tenant count once."""

    requests: int = 0
    tokens: int = 0
    prompts: set[tuple[bytes, tuple[int, ...]]] = field(default_factory=set, repr=False)

    def add(self, submission: Submission) -> None:
        self.requests += 1
        prompt = submission.salt, submission.tokens
        if prompt not in self.prompts:
            self.prompts.add(prompt)
            self.tokens += len(submission.tokens)

    def copy(self) -> Arrivals:
        return Arrivals(self.requests, self.tokens, set(self.prompts))


class Intake:
    """A bounded, thread-safe queue of submissions and aborts. It calls nobody back.

    At most `max_requests` requests or `max_tokens` tokens wait; an empty queue takes a prompt of
    any size, and any number of requests that share it. Waiting are those in the inbox, those on
    their way to the scheduler, and those of which the engine last reported that they wait there.
    """

    def __init__(self, *, max_requests: int, max_tokens: int) -> None:
        self.pace = Pace()  # kept by the engine's workers
        self.changes = 0  # counts what may give something to do to a worker that had nothing
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._changed = threading.Condition()
        self._inbox: list[Submission | str] = []  # a string is the id of an abort
        self._live: set[str] = set()  # ids from `put` to `ended`
        self._arriving = Arrivals()  # what is in the inbox
        self._taken = self._reported = (0, 0)  # requests and tokens
        self._closed = self.stopping = False

    def put(self, *submissions: Submission) -> None:
        """All of them or none. Of equal prompts, here and in the inbox, the tokens count once.

        Raises RateLimited (with `retry_after_s`), Unavailable, ValueError for an id in use.
        """
        with self._changed:
            if self._closed:
                raise Unavailable("this replica is shutting down and takes no new requests")
            if any(submission.id in self._live for submission in submissions):
                raise ValueError("a request with this id is in progress")
            arriving = self._arriving.copy()
            for submission in submissions:
                arriving.add(submission)
            self._check_room(arriving)
            self._arriving = arriving
            self._live.update(submission.id for submission in submissions)
            self._inbox.extend(submissions)
            self._stir()

    def abort(self, request_id: str) -> None:
        with self._changed:
            if request_id in self._live:
                self._inbox.append(request_id)
                self._stir()

    def close(self, *, stopping: bool = False) -> None:
        """Nothing new is taken; `stopping` also tells the workers to end."""
        with self._changed:
            self._closed = True
            self.stopping |= stopping
            self._stir()

    @property
    def accepting(self) -> bool:
        return not self._closed

    def idle(self) -> bool:
        with self._changed:
            return not self._live

    def wait_idle(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._live, timeout)

    def stir(self) -> None:
        """A worker has left something to do to another one."""
        with self._changed:
            self._stir()

    def wait_for_change(self, seen: int) -> None:
        """Waits until `changes` is not `seen` any more."""
        with self._changed:
            self._changed.wait_for(lambda: self.changes != seen)

    def take(self) -> list[Submission | str]:
        """Empties the inbox, in the order of arrival."""
        with self._changed:
            inbox, self._inbox = self._inbox, []
            arrived, self._arriving = self._arriving, Arrivals()
            self._taken = (self._taken[0] + arrived.requests, self._taken[1] + arrived.tokens)
            return inbox

    def report(self, requests: int, tokens: int) -> None:
        """What waits in the scheduler now, everything that was taken included."""
        with self._changed:
            self._taken, self._reported = (0, 0), (requests, tokens)

    def ended(self, request_id: str) -> None:
        with self._changed:
            self._live.discard(request_id)
            self._changed.notify_all()

    def _stir(self) -> None:
        self.changes += 1
        self._changed.notify_all()

    def _check_room(self, arriving: Arrivals) -> None:
        """Raises RateLimited if these, in place of those in the inbox, would be too many."""
        before = self._waiting(self._arriving)
        if not before[0]:
            return
        after = self._waiting(arriving)
        if after[0] > self._max_requests:
            excess = before[1] / before[0]
        elif after[1] > self._max_tokens and after[1] > before[1]:
            excess = after[1] - self._max_tokens
        else:
            return
        raise RateLimited(
            f"this replica's queue is full ({before[0]} requests, {before[1]} tokens)",
            retry_after_s=self.pace.wait_s(excess),
        )

    def _waiting(self, arriving: Arrivals) -> tuple[int, int]:
        """Requests and tokens."""
        return (
            arriving.requests + self._taken[0] + self._reported[0],
            arriving.tokens + self._taken[1] + self._reported[1],
        )
