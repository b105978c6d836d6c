"""Who comes next: priority classes, and inside a class the tenants take turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count

from gateway.replica.request import Request, State

PATIENCE_S = 10.0
"""A request moves up one priority class per so many seconds since its arrival, so none starves."""


def urgency(request: Request, now: float) -> tuple[int, int]:
    """Lowest first: the class, which time improves, then the order of arrival."""
    promoted = int((now - request.arrived) / PATIENCE_S)
    return max(0, request.submission.priority - promoted), request.number


class WaitingQueue:
    """Requests that hold no blocks, and whose turn it is to have a prompt computed.

    A tenant (a salt) that was served, with a chunk of a prompt, comes after the others.
    """

    def __init__(self) -> None:
        self._requests: dict[str, Request] = {}
        self._turns: dict[bytes, int] = {}  # of the salts with a prompt to compute
        self._next_turn = count()

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests.values())

    def get(self, request_id: str) -> Request | None:
        return self._requests.get(request_id)

    def add(self, request: Request) -> None:
        self._requests[request.submission.id] = request
        self._turns.setdefault(request.submission.salt, next(self._next_turn))

    def serve(self, request: Request) -> None:
        """A chunk of this request's prompt is computed, and it waits no longer if it did: its
        tenant has had a turn."""
        self._requests.pop(request.submission.id, None)
        self._turns[request.submission.salt] = next(self._next_turn)

    def remove(self, request: Request) -> None:
        del self._requests[request.submission.id]
        salt = request.submission.salt
        if all(other.submission.salt != salt for other in self):
            self._turns.pop(salt, None)

    def in_order(self, now: float, running: Sequence[Request] = ()) -> list[Request]:
        """The preempted first, by arrival; then class by class, in each one of every tenant's
        requests before anyone's second. Of a tenant's own, prompts that are `running` come before
        those that wait, and both in the order of their arrival.
        """
        here = [*sorted(running, key=lambda r: r.number), *self]
        # in the order of arrival, so that who is new comes after those that wait for their turn
        self._turns = {
            salt: self._turns[salt] if salt in self._turns else next(self._next_turn)
            for salt in dict.fromkeys(request.submission.salt for request in here)
        }
        ahead: Counter[tuple[int, bytes]] = Counter()
        places: list[tuple[int, int, int, Request]] = []
        for request in here:
            if request.state is State.PREEMPTED:
                places.append((-1, request.number, 0, request))
                continue
            level, _ = urgency(request, now)
            salt = request.submission.salt
            places.append((level, ahead[level, salt], self._turns[salt], request))
            ahead[level, salt] += 1
        places.sort(key=lambda place: place[:3])
        return [request for *_, request in places]
