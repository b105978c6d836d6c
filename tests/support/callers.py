"""Who submits requests to an engine, and what they should be told."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from uuid import uuid4

import numpy as np

from gateway.replica.engine import Engine
from gateway.replica.request import Counts, Finish, Output, Submission
from gateway.replica.sampler import sample
from gateway.replica.sampling import Sampling, Seen, Turn
from tests.support.fake_backend import FakeBackend

GREEDY = Sampling(temperature=0, max_tokens=12)


def prompt(length: int, *, start: int = 0) -> tuple[int, ...]:
    return tuple((start + 7 * i) % 50 for i in range(length))


@dataclass
class Caller:
    """Submits one request and remembers what it was told."""

    prompt: tuple[int, ...]
    sampling: Sampling = GREEDY
    salt: bytes = b""
    priority: int = 1
    enough_after: int | None = None
    continued: tuple[int, ...] = ()
    id: str = field(default_factory=lambda: uuid4().hex)
    tokens: list[int] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    finish: Finish | None = None
    counts: Counts | None = None
    error: Exception | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def submit(self, engine: Engine) -> Caller:
        engine.submit(self.submission())
        return self

    def submission(self) -> Submission:
        return Submission(
            self.id,
            self.prompt,
            self.sampling,
            self._on_token,
            self._on_finish,
            self._on_error,
            self.salt,
            self.priority,
            self.continued,
        )

    def _on_token(self, output: Output) -> bool:
        assert not self.over.is_set()
        self.tokens.append(output.token)
        self.outputs.append(output)
        return len(self.tokens) == self.enough_after

    def _on_finish(self, finish: Finish, counts: Counts) -> None:
        assert not self.over.is_set()
        self.finish, self.counts = finish, counts
        self.over.set()

    def _on_error(self, error: Exception) -> None:
        assert not self.over.is_set()
        self.error = error
        self.over.set()


def expected(caller: Caller) -> list[int]:
    """The answer, computed without pool, batches or chunks."""
    backend, sampling = FakeBackend(), caller.sampling
    tokens: list[int] = []
    for generated in range(sampling.max_tokens or 0):
        logits = backend.naive_logits([*caller.prompt, *tokens])[None]
        seen = Seen.of(sampling, caller.prompt, tokens)
        turn = Turn(sampling, len(caller.prompt) + generated, generated, seen)
        token = sample(logits, [turn], np.random.default_rng(0))[0]
        assert token is not None
        tokens.append(token)
    return tokens
