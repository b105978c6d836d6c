"""
Answers given again, word for word, to the same request of the same tenant.

Only for models that the config names, or for requests that ask for it; and never an answer that was
drawn by chance, unless its request asks for it: with temperature 0 or a seed the endpoint would
have said the same. Held in this process, within a size; the least recently used goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from gateway.domain import Event, InferenceRequest
from gateway.errors import InvalidRequest
from gateway.wire.openai import Ending, encode_json, parse_event, parse_vectors
from gateway.wire.prefix import canonical
from gateway.wire.responses.native import parse_native

Parse = Callable[[bytes, InferenceRequest], Event]
"""Of an event as it was kept, for whoever asks again."""

ASK = "x-gateway-cache"
"""A request's own word: `yes`, even for an answer drawn by chance; `no`, neither read nor kept."""

LARGEST_SHARE = 8
"""No answer takes more than this part of the whole."""


@dataclass(frozen=True, slots=True)
class CacheLimits:
    size: int  # bytes of answers
    ttl_s: float  # of what a request asks to keep
    models: Mapping[str, float] = field(default_factory=dict)  # seconds, by model


@dataclass(frozen=True, slots=True)
class Kept:
    events: Sequence[tuple[bytes, Parse]]
    expires: float

    @property
    def size(self) -> int:
        return sum(len(raw) for raw, _ in self.events)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request's answer is, or is to be."""

    key: bytes
    ttl_s: float
    request: InferenceRequest


@dataclass
class ResponseCache:
    limits: CacheLimits  # a reload of the config puts others here
    clock: Callable[[], float]
    _kept: OrderedDict[bytes, Kept] = field(default_factory=OrderedDict)
    _size: int = 0

    def place(self, request: InferenceRequest, headers: Mapping[str, str]) -> Place | None:
        """None: its answer is neither looked up nor kept. Raises InvalidRequest."""
        asked = headers.get(ASK)
        if asked not in (None, "yes", "no"):
            raise InvalidRequest(f"{ASK} must be yes or no", param=ASK)
        ttl = self.limits.models.get(request.model)
        if asked == "no" or (asked is None and (ttl is None or _by_chance(request))):
            return None
        # The salt names the tenant, and what of it the caller set apart.
        digest = blake2b(key=bytes.fromhex(request.cache_salt), digest_size=32)
        asked_of_all = [request.operation, request.model, request.forwarded, request.native]
        digest.update(canonical(asked_of_all))
        return Place(digest.digest(), self.limits.ttl_s if ttl is None else ttl, request)

    def find(self, place: Place) -> list[Event] | None:
        kept = self._kept.get(place.key)
        if kept is None:
            return None
        if kept.expires <= self.clock():
            self._drop(place.key)
            return None
        self._kept.move_to_end(place.key)
        return [parse(raw, place.request) for raw, parse in kept.events]

    async def keeping(
        self, place: Place, request: InferenceRequest, events: AsyncIterator[Event]
    ) -> AsyncIterator[Event]:
        """The same events; kept once they are a whole answer."""
        told: list[tuple[bytes, Parse]] = []
        size, ending = 0, Ending(request)
        async for event in events:
            if request.operation.writes:
                ending.note(event)
            if size <= self.limits.size // LARGEST_SHARE:
                told.append(_told(event, request))
                size += len(told[-1][0])
            # Nobody asks for what comes after a plain answer; and vectors come whole or not at all.
            if not request.stream and (not request.operation.writes or _whole(ending)):
                self._keep(place, told)
            yield event
        if request.stream and _whole(ending):
            self._keep(place, told)

    def _keep(self, place: Place, events: Sequence[tuple[bytes, Parse]]) -> None:
        kept = Kept(tuple(events), self.clock() + place.ttl_s)
        if kept.size > self.limits.size // LARGEST_SHARE:
            return
        self._drop(place.key)
        self._kept[place.key] = kept
        self._size += kept.size
        while self._size > self.limits.size:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._size -= kept.size


def _told(event: Event, request: InferenceRequest) -> tuple[bytes, Parse]:
    """The event as its endpoint said it, and how that is read."""
    if event.native is not None:
        return encode_json(event.native), _native
    return encode_json(event.payload), _written if request.operation.writes else parse_vectors


def _native(raw: bytes, request: InferenceRequest) -> Event:
    return parse_native(raw)


def _written(raw: bytes, request: InferenceRequest) -> Event:
    return parse_event(raw)


def _whole(ending: Ending) -> bool:
    return ending.reached or ending.said


def _by_chance(request: InferenceRequest) -> bool:
    forwarded = request.forwarded
    if not request.operation.writes:
        return False
    return forwarded.get("temperature") != 0 and forwarded.get("seed") is None


async def replayed(events: Sequence[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event
