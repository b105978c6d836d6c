"""
The replica's engine: its workers turn submissions into tokens, step by step.

    receive   take what other threads submitted and aborted    (intake)
    plan      choose each request's tokens of this step        (scheduler)
    forward   compute them                                     (backend)
    sample    one token for each request that has caught up    (sampler)
    commit    book the step, tell the callers, free what ended

A worker is a thread with a fork of the backend. To receive and plan, and to commit, it holds the
engine's lock, some tens of microseconds; while it computes and samples it holds none, and what it
touches is its own: the scheduler lets nobody near the requests of a step in flight.

A backend that chooses tokens itself is kept busy: the next step is planned and launched before the
tokens of this one are read. Who ends with one of them is in that next step for nothing.

All other threads only write to the intake and read a frozen snapshot. The engine knows no text and
no HTTP.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import numpy as np

from gateway.errors import ContextLengthExceeded, GatewayError, InvalidRequest
from gateway.replica.backends.base import (
    BLOCK_SIZE,
    Backend,
    DeviceLost,
    DrawingBackend,
    Drawn,
    Float32,
)
from gateway.replica.blocks import BlockPool, Chain
from gateway.replica.drawing import draws_of
from gateway.replica.intake import Intake
from gateway.replica.metrics import EngineMetrics
from gateway.replica.pace import Busy
from gateway.replica.plan import Plan
from gateway.replica.request import Finish, Logprobs, Output, Request, Submission
from gateway.replica.sampler import logprobs_of, sample
from gateway.replica.scheduler import Scheduler
from gateway.replica.stats import EngineStats
from gateway.replica.workers import Workers

logger = logging.getLogger(__name__)

_NO_TOKEN = "no token can come next: the logits are not finite, or a grammar reached its limits"


@dataclass(slots=True)
class Step:
    """In flight."""

    plan: Plan
    started: float
    drawn: Drawn | None = None  # None: its tokens are to be sampled here

    def forsake(self) -> None:
        """Nobody wants its tokens; but until it has been waited for, it takes a place."""
        if self.drawn is not None:
            with suppress(Exception):  # the rim: why it failed has been told
                self.drawn.tokens()


class Engine:
    """Serves one model. Methods may be called from any thread, unless they say otherwise.

    It has a worker for the backend and for each of its forks. Two let prompts be computed while
    others decode. The tokens are the same with any number of them.

    At most `max_running` requests share a step and at most `chunk_tokens` tokens are in it; what
    would queue beyond `max_queued` requests or `max_queued_tokens` tokens is refused. `generator`
    draws for the requests without a seed.
    """

    def __init__(
        self,
        backend: Backend,
        *forks: Backend,
        clock: Callable[[], float] = time.monotonic,
        generator: np.random.Generator | None = None,
        max_running: int = 32,
        max_queued: int = 256,
        max_queued_tokens: int = 32_768,
        chunk_tokens: int = 128,
    ) -> None:
        if chunk_tokens > backend.max_tokens:
            raise ValueError(f"chunk_tokens must be at most the backend's {backend.max_tokens}")
        self._backends = (backend, *forks)
        self._spec = backend.spec
        self._clock = clock
        self._generator = generator or np.random.default_rng()  # it locks itself
        self._context_length = min(backend.spec.context_length, backend.blocks * BLOCK_SIZE)
        self._intake = Intake(max_requests=max_queued, max_tokens=max_queued_tokens)
        self._pool = BlockPool(backend.blocks, clock)
        self._scheduler = Scheduler(
            self._pool,
            max_running=max_running,
            chunk_tokens=chunk_tokens,
            workers=len(self._backends),
        )
        self._lock = threading.Lock()  # of all that follows, and of the scheduler and its pool
        self._numbers = count()
        self._prefill_tokens = self._decode_tokens = 0
        self._ahead: Step | None = None  # planned while the one before it was in flight
        self._busy = Busy()
        self._epoch = secrets.token_hex(8)
        self.metrics = EngineMetrics()
        self._stats = self._snapshot()
        self._on_end: Callable[[], None] = lambda: None
        self._workers = Workers(len(self._backends), self._work, self._over)

    def start(self, on_end: Callable[[], None] = lambda: None) -> None:
        """`on_end` is called on the last worker's thread when it has ended, whatever ended it."""
        self._on_end = on_end
        self._workers.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Aborts what is left after the current steps; TimeoutError if that takes too long."""
        self._intake.close(stopping=True)
        self._workers.join(timeout)

    def submit(self, *submissions: Submission) -> None:
        """Queues requests of one prompt, all or none. Callbacks come on a worker's thread.

        Raises InvalidRequest, ContextLengthExceeded, RateLimited (the queue is full; with
        `retry_after_s`), Unavailable (draining), and ValueError for an id that is in use.
        """
        for submission in submissions:
            self._check(submission)
        self._intake.put(*submissions)

    def abort(self, request_id: str) -> None:
        """Ends a request before its next step, with ABORTED; nothing happens if it is over."""
        self._intake.abort(request_id)

    def drain(self) -> None:
        """From here on nothing new is taken; what was accepted goes on."""
        self._intake.close()

    @property
    def accepting(self) -> bool:
        """Whether it takes requests: neither draining nor stopped, nor has a worker died."""
        return self._intake.accepting

    def idle(self) -> bool:
        """Whether every accepted request has been told its end."""
        return self._intake.idle()

    def wait_idle(self, timeout: float) -> bool:
        """Waits for `idle`, at most `timeout` seconds; returns whether it is."""
        return self._intake.wait_idle(timeout)

    def stats(self) -> EngineStats:
        horizon = self._pool.horizon
        age = None if horizon is None else self._clock() - horizon
        return replace(self._stats, horizon_age_s=age, busy_s=self._busy.seconds)

    def step(self) -> bool:
        """One step here and now, for an engine that was not started; whether requests are left."""
        self._step(self._backends[0])
        return not self.idle()

    def check_integrity(self) -> None:
        """Raises AssertionError unless blocks, requests and steps in flight agree."""
        with self._lock:
            self._scheduler.check_integrity()

    def _work(self, index: int) -> None:
        """The life of a worker."""
        try:
            while not self._intake.stopping:
                seen = self._intake.changes
                if not self._step(self._backends[index]):
                    self._intake.wait_for_change(seen)
        finally:
            # even if telling a caller of his end raised: nobody would serve what comes
            self._intake.close(stopping=True)

    def _step(self, backend: Backend) -> bool:
        """Plans, computes and commits; False if there was nothing to compute.

        If it fails, the requests of this step are told so and the engine lives on.
        """
        step, self._ahead = self._ahead, None
        if step is None:
            with self._lock:
                started = self._clock()
                self._receive()
                step = self._planned(self._scheduler.plan(started), started)
            if step is None:
                return False
        try:
            self._launch(backend, step)
            tokens, logprobs = self._result(backend, step)
            with self._lock:
                self._commit(step.plan, tokens, logprobs, step.started)
        except Exception as error:  # the rim: no failed step may end the engine
            with self._lock:
                self._fail_steps(step, error)
            if isinstance(error, DeviceLost):
                raise  # but this one: whoever watches the process starts another
        finally:
            with self._lock:
                self._busy.end(self._clock())
        return True

    def _launch(self, backend: Backend, step: Step) -> None:
        """Has the backend begin, and the step after it, where it chooses their tokens itself."""
        if not isinstance(backend, DrawingBackend):
            return
        if step.drawn is None:
            step.drawn = self._drawn(backend, step.plan)
        if step.drawn is None:
            return
        with self._lock:
            started = self._clock()
            self._receive()
            self._ahead = self._planned(self._scheduler.follow(step.plan, started), started)
        if self._ahead is not None:
            self._ahead.drawn = self._drawn(backend, self._ahead.plan)

    def _drawn(self, backend: DrawingBackend, plan: Plan) -> Drawn | None:
        draws = draws_of(plan, self._generator)
        return None if draws is None else backend.launch(plan.batch(), draws)

    def _result(
        self, backend: Backend, step: Step
    ) -> tuple[Sequence[int | None], Sequence[Logprobs | None]]:
        """The step's tokens, and what is told beside them."""
        sampled = step.plan.sampled
        if step.drawn is not None:
            return step.drawn.tokens(), [None] * len(sampled)
        logits = backend.forward(step.plan.batch())
        tokens = sample(logits, [request.turn for request in sampled], self._generator)
        for request, token in zip(sampled, tokens, strict=True):
            request.chose(token)
        logprobs = [
            _told(request, row, token)
            for request, row, token in zip(sampled, logits, tokens, strict=True)
        ]
        return tokens, logprobs

    def _receive(self) -> None:
        for message in self._intake.take():
            if isinstance(message, Submission):
                self._scheduler.add(self._request(message))
            elif (request := self._scheduler.get(message)) is not None:
                self._finish(request, Finish.ABORTED)

    def _planned(self, plan: Plan | None, now: float) -> Step | None:
        """Books a plan, and does beforehand what it needs; None if it failed with that."""
        self._publish()
        if plan is None:
            return None
        step = Step(plan, now)
        self._busy.begin(now)
        self.metrics.planned(plan, now)
        try:
            for source, target in plan.copies:
                self._backends[0].copy_block(source, target)
        except Exception as error:  # the rim, as in `_step`
            self._fail_steps(step, error)
            self._busy.end(self._clock())
            self._intake.stir()
            if isinstance(error, DeviceLost):
                raise
            return None
        if self._scheduler.leaves_some:
            self._intake.stir()
        return step

    def _request(self, submission: Submission) -> Request:
        wanted = submission.sampling.max_tokens
        limit = self._context_length
        if wanted is not None:
            limit = min(limit, len(submission.prompt) + wanted)
        chain = Chain.of(self._spec.fingerprint, submission.salt)
        return Request(submission, chain, next(self._numbers), self._clock(), limit)

    def _commit(
        self,
        plan: Plan,
        tokens: Sequence[int | None],
        logprobs: Sequence[Logprobs | None],
        started: float,
    ) -> None:
        tokens = [
            None if request.ending else token
            for request, token in zip(plan.sampled, tokens, strict=True)
        ]
        finishes = self._scheduler.commit(plan, tokens)
        self._prefill_tokens += plan.prefill_tokens
        self._decode_tokens += sum(token is not None for token in tokens)
        now = self._clock()
        sampled = zip(plan.sampled, tokens, logprobs, finishes, strict=True)
        for request, token, told, finish in sampled:
            if request.ending:
                continue
            if token is None:
                self._fail(request, GatewayError(_NO_TOKEN))
                continue
            self.metrics.sampled(request, now)
            self._report(request, Output(token, finish, told))
        for request in plan.requests:
            if request.ending and not request.in_flight:
                request.ending()
        if plan.prefill_tokens or self._scheduler.waiting:
            self._intake.pace.add(plan.prefill_tokens, started, self._clock())
        self._publish()

    def _report(self, request: Request, output: Output) -> None:
        """Tells the caller of its new token, and of the end if this is it."""
        finish = output.finish
        if request.submission.on_token(output):
            finish = Finish.STOP
        if finish is not None:
            self._finish(request, finish)

    def _finish(self, request: Request, finish: Finish) -> None:
        """Now, or as soon as no step is in flight that reads and writes the request's blocks."""
        if request.in_flight:
            request.ending = request.ending or partial(self._finish, request, finish)
            return
        with self._ending(request):
            self.metrics.finished(request, finish, self._clock())
            request.submission.on_finish(finish, request.counts)

    def _fail(self, request: Request, error: GatewayError) -> None:
        """When `_finish` would."""
        if request.in_flight:
            request.ending = request.ending or partial(self._fail, request, error)
            return
        with self._ending(request):
            self.metrics.finished(request, None, self._clock())
            request.submission.on_error(error)

    @contextmanager
    def _ending(self, request: Request) -> Iterator[None]:
        """Frees the blocks, lets the caller be told, and only then counts the request as over."""
        self._scheduler.remove(request)
        try:
            yield
        finally:
            self._intake.ended(request.submission.id)

    def _fail_steps(self, step: Step, error: Exception) -> None:
        """This one, and the one that was to go on from it."""
        logger.error("a step of %d requests failed", len(step.plan.rows), exc_info=error)
        step.forsake()
        requests = dict.fromkeys(step.plan.requests + self._abandon_ahead())
        self._scheduler.abandon(step.plan)
        for request in requests:
            if self._scheduler.get(request.submission.id) is request:
                failure = GatewayError("the replica failed while computing this answer")
                failure.__cause__ = error
                self._fail(request, failure)
        self._publish()

    def _abandon_ahead(self) -> list[Request]:
        """Who was in the step ahead, if there is one."""
        step, self._ahead = self._ahead, None
        if step is None:
            return []
        step.forsake()
        self._scheduler.abandon(step.plan)
        self._busy.end(self._clock())
        return step.plan.requests

    def _over(self) -> None:
        """After the last worker's last step: whoever is left is told so."""
        try:
            with self._lock:
                self._abandon_ahead()
                self._receive()
                for request in list(self._scheduler):
                    self._finish(request, Finish.ABORTED)
                self._publish()
        finally:
            self._on_end()

    def _check(self, submission: Submission) -> None:
        size = len(submission.tokens)
        if not submission.prompt:
            raise InvalidRequest("the prompt must have at least one token")
        if size + 1 > self._context_length:
            raise ContextLengthExceeded(
                f"the prompt has {size} tokens, but prompt and output together may have "
                f"at most {self._context_length} here"
            )
        submission.check_tokens(self._spec.vocabulary)

    def _publish(self) -> None:
        self._stats = self._snapshot()
        self._intake.report(self._stats.waiting, self._stats.queued_tokens)

    def _snapshot(self) -> EngineStats:
        return EngineStats.of(
            self._scheduler,
            self._pool,
            epoch=self._epoch,
            context_length=self._context_length,
            prefill_tokens=self._prefill_tokens,
            decode_tokens=self._decode_tokens,
        )


def _told(request: Request, row: Float32, token: int | None) -> Logprobs | None:
    wanted = request.submission.sampling.logprobs
    return None if wanted is None or token is None else logprobs_of(row, token, wanted)
