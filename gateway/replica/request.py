"""What a caller submits to the engine, and the request that the scheduler keeps of it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum, auto

from gateway.errors import InvalidRequest
from gateway.replica.blocks import Chain


class Finish(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request's tokens are chosen. Raises InvalidRequest that names the field."""

    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0  # above 0, at most 1
    seed: int | None = None  # None: the engine's own randomness
    max_tokens: int | None = None  # None: until the context is full
    stop_tokens: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InvalidRequest("temperature must be 0 or more", param="temperature")
        if not 0 < self.top_p <= 1:
            raise InvalidRequest("top_p must be above 0 and at most 1", param="top_p")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1", param="max_tokens")


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of one request. `completion_tokens` includes a stop token that ended it."""

    prompt_tokens: int
    cached_tokens: (
        int  # prompt tokens whose KV was in the cache when the request was first admitted
    )
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Submission:
    """A prompt and whom to tell. Exactly one of `on_finish` and `on_error` is called, and last.

    The callbacks run on the engine's thread between two steps: they must not block nor raise.
    """

    id: str  # unique among the requests that are not over
    prompt: tuple[int, ...] = field(repr=False)
    sampling: Sampling
    on_token: Callable[[int], bool]
    """Gets every token but a stop token; True means seen enough: the request ends with STOP."""
    on_finish: Callable[[Finish, Counts], None]
    on_error: Callable[[Exception], None]
    salt: bytes = field(default=b"", repr=False)  # names the tenant
    priority: int = 1  # 0 is the most urgent class


class State(StrEnum):
    WAITING = auto()
    RUNNING = auto()
    PREEMPTED = auto()  # waits as well, but ahead of those that never ran


@dataclass(slots=True, eq=False)
class Request:
    """One submission on its way. Owned by the scheduler, and so by the engine's thread.

    `blocks` is the request's block table. With n = computed // BLOCK_SIZE,
      [0, n)  are published: named by `hashes`, read-only, perhaps in other tables too;
      [n, …)  are private: this request alone writes and reads them.
    """

    submission: Submission
    chain: Chain
    number: int  # order of arrival
    arrived: float
    limit: int  # most tokens, the prompt's included
    state: State = State.WAITING
    tokens: array[int] = field(init=False, repr=False)  # the prompt, then the output
    hashes: list[bytes] = field(default_factory=list, repr=False)  # of every full block of tokens
    blocks: array[int] = field(default_factory=lambda: array("i"))
    computed: int = 0  # tokens whose KV is in the blocks
    matched: int = 0  # tokens that the cache held when last looked up, for the queue's length
    cached_tokens: int | None = None  # None: not admitted yet

    def __post_init__(self) -> None:
        self.tokens = array("i", self.submission.prompt)
        self.chain.extend(self.hashes, self.tokens)

    @property
    def missing(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        return self.missing == 1 and len(self.tokens) > len(self.submission.prompt)

    @property
    def counts(self) -> Counts:
        prompt = len(self.submission.prompt)
        return Counts(prompt, self.cached_tokens or 0, len(self.tokens) - prompt)

    def append(self, token: int) -> Finish | None:
        """Adds a sampled token; returns why it is the last one, if it is."""
        self.tokens.append(token)
        self.chain.extend(self.hashes, self.tokens)
        if token in self.submission.sampling.stop_tokens:
            return Finish.STOP
        return Finish.LENGTH if len(self.tokens) >= self.limit else None
