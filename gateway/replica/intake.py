"""The border between the engine's workers and all others: what comes in, and how much of it."""

from __future__ import annotations

import threading

from gateway.errors import RateLimited, Unavailable
from gateway.replica.pace import Pace
from gateway.replica.request import Submission


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
        self._taken = self._reported = (0, 0)  # requests and tokens
        self._closed = self.stopping = False

    def put(self, *submissions: Submission) -> None:
        """All of them or none; they share their prompt, so its tokens count once.

        Raises RateLimited (with `retry_after_s`), Unavailable, ValueError for an id in use.
        """
        with self._changed:
            if self._closed:
                raise Unavailable("this replica is shutting down and takes no new requests")
            if any(submission.id in self._live for submission in submissions):
                raise ValueError("a request with this id is in progress")
            self._check_room(len(submissions), max(len(s.tokens) for s in submissions))
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
            sizes = _prompt_sizes(inbox)
            self._taken = (self._taken[0] + len(sizes), self._taken[1] + sum(sizes))
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

    def _check_room(self, count: int, size: int) -> None:
        sizes = _prompt_sizes(self._inbox)
        requests = len(sizes) + self._taken[0] + self._reported[0]
        tokens = sum(sizes) + self._taken[1] + self._reported[1]
        if requests and requests + count > self._max_requests:
            excess = tokens / requests
        elif requests and tokens + size > self._max_tokens:
            excess = tokens + size - self._max_tokens
        else:
            return
        raise RateLimited(
            f"this replica's queue is full ({requests} requests, {tokens} tokens)",
            retry_after_s=self.pace.wait_s(excess),
        )


def _prompt_sizes(inbox: list[Submission | str]) -> list[int]:
    return [len(message.tokens) for message in inbox if isinstance(message, Submission)]
