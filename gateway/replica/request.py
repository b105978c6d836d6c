"""What a caller submits to the engine, and the request that the scheduler keeps of it."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum, auto

from gateway.errors import InvalidRequest
from gateway.replica.blocks import Chain
from gateway.replica.constraint import Constraint
from gateway.replica.sampling import Sampling, Seen, Turn


class Finish(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Times:
    """When an engine did what for one request, on its clock; None: it never came to that."""

    arrived: float
    planned: float | None
    first_token: float | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of one request. `completion_tokens` includes a stop token that ended it."""

    prompt_tokens: int
    cached_tokens: (
        int  # prompt tokens whose KV was in the cache when the request was first admitted
    )
    completion_tokens: int
    times: Times | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural logarithms of the model's own probabilities for one token."""

    chosen: float
    top: tuple[tuple[int, float], ...]  # token ids and theirs, likeliest first


@dataclass(frozen=True, slots=True)
class Output:
    """One sampled token."""

    token: int
    finish: Finish | None = None
    """Why it is the last, if it is: STOP for a stop token, and where a grammar ends."""
    logprobs: Logprobs | None = None  # if they were asked for


@dataclass(frozen=True, slots=True)
class Submission:
    """A prompt and whom to tell. Exactly one of `on_finish` and `on_error` is called, and last.

    The callbacks run on a thread of the engine, one at a time: they must not block nor raise.
    """

    id: str  # unique among the requests that are not over
    prompt: tuple[int, ...] = field(repr=False)
    sampling: Sampling
    on_token: Callable[[Output], bool]
    """Gets every token; True means seen enough: the request ends with STOP."""
    on_finish: Callable[[Finish, Counts], None]
    on_error: Callable[[Exception], None]
    salt: bytes = field(default=b"", repr=False)  # names the tenant
    priority: int = 1  # 0 is the most urgent class
    continued: tuple[int, ...] = field(default=(), repr=False)
    """Output tokens that were told before, perhaps by another engine: the answer goes on after
    them, and they count as its own in every respect."""
    constraint: Constraint | None = field(default=None, repr=False)
    """Where the output stands in its grammar, the continued tokens taken in. Each has its own."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """What must be computed before the first new token."""
        return self.prompt + self.continued

    def check_tokens(self, vocabulary: int) -> None:
        """Raises InvalidRequest that names the field with a token that the model does not have."""
        named = {
            "prompt": self.prompt,
            "continue_token_ids": self.continued,
            "logit_bias": self.sampling.logit_bias,
            "stop_token_ids": self.sampling.stop_tokens,
        }
        for name, tokens in named.items():
            if tokens and (min(tokens) < 0 or max(tokens) >= vocabulary):
                what = f"{name}: token ids must be from 0 to {vocabulary - 1}"
                raise InvalidRequest(what, param=name)


class State(StrEnum):
    WAITING = auto()
    RUNNING = auto()
    PREEMPTED = auto()  # waits as well, but ahead of those that never ran


@dataclass(slots=True, eq=False)
class Request:
    """One submission on its way. Owned by the scheduler; while it is in flight, by its step.

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
    in_flight: int = (
        0  # steps not committed: until then no block is given up, nor its tokens redone
    )
    yields: bool = False  # is preempted once it is in flight no more
    ending: Callable[[], None] | None = None  # called once it is in flight no more; it gets nothing
    tokens: array[int] = field(init=False, repr=False)  # the prompt, then the output
    hashes: list[bytes] = field(default_factory=list, repr=False)  # of every full block of tokens
    blocks: array[int] = field(default_factory=lambda: array("i"))
    computed: int = 0  # tokens whose KV is in the blocks
    cached_tokens: int | None = None  # None: not admitted yet
    seen: Seen | None = field(init=False, repr=False)  # None: its sampling needs none
    # when it was first planned and when it got its first and its latest token
    planned: float | None = None
    first_token: float | None = None
    last_token: float | None = None

    def __post_init__(self) -> None:
        asked = self.submission
        self.tokens = array("i", asked.tokens)
        self.seen = Seen.of(asked.sampling, asked.prompt, asked.continued)
        self.chain.extend(self.hashes, self.tokens)

    @property
    def missing(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        return self.missing == 1 and len(self.tokens) > len(self.submission.prompt)

    def drawable(self, position: int) -> bool:
        """Whether the token that will stand there can be chosen where the logits are: by them, a
        temperature and a noise alone."""
        sampling = self.submission.sampling
        generated = position - len(self.submission.prompt)
        return (
            self.seen is None
            and self.submission.constraint is None
            and sampling.plain
            and not (generated < sampling.min_tokens and sampling.stop_tokens)
        )

    @property
    def counts(self) -> Counts:
        prompt = len(self.submission.prompt)
        cached = min(self.cached_tokens or 0, prompt)  # continued output may have been cached too
        times = Times(self.arrived, self.planned, self.first_token)
        return Counts(prompt, cached, len(self.tokens) - prompt, times)

    @property
    def turn(self) -> Turn:
        """Asks the constraint, so not under the engine's lock."""
        position = len(self.tokens)
        generated = position - len(self.submission.prompt)
        constraint = self.submission.constraint
        mask = None if constraint is None else constraint.mask()
        return Turn(self.submission.sampling, position, generated, self.seen, mask)

    def chose(self, token: int | None) -> None:
        """Tells the constraint, so not under the engine's lock; None: there was no token."""
        if token is not None and self.submission.constraint is not None:
            self.submission.constraint.take(token)

    def append(self, token: int) -> Finish | None:
        """Adds a sampled token; returns why it is the last one, if it is."""
        self.tokens.append(token)
        self.chain.extend(self.hashes, self.tokens)
        if self.seen is not None:
            self.seen.add(token)
        constraint = self.submission.constraint
        ended = constraint is not None and constraint.ended
        if ended or token in self.submission.sampling.stop_tokens:
            return Finish.STOP
        return Finish.LENGTH if len(self.tokens) >= self.limit else None
