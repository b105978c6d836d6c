"""
The replica's engine: one thread that turns submissions into tokens, step by step.

    receive   take what other threads submitted and aborted    (intake)
    plan      choose each request's tokens of this step        (scheduler)
    forward   compute them                                     (backend)
    sample    one token for each request that has caught up    (sampler)
    commit    book the step, tell the callers, free what ended

Other threads only write to the intake and read a frozen snapshot, so the scheduler and the
backend belong to the engine's thread alone. The engine knows no text and no HTTP.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from gateway.errors import ContextLengthExceeded, GatewayError, InvalidRequest
from gateway.replica.backends.base import BLOCK_SIZE, Backend
from gateway.replica.blocks import BlockPool, Chain
from gateway.replica.intake import Intake
from gateway.replica.metrics import EngineMetrics
from gateway.replica.plan import Plan
from gateway.replica.request import Finish, Output, Request, Submission
from gateway.replica.sampler import logprobs_of, sample
from gateway.replica.scheduler import Scheduler

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of the last plan or step. Totals count from the engine's start."""

    epoch: str  # a new random string per engine: under another one, what was cached is gone
    running: int  # requests that hold blocks
    waiting: int
    queued_tokens: int  # accepted and not computed yet, cached ones left out
    horizon_age_s: float | None  # since the last touch of the latest evicted block
    block_size: int  # tokens
    total_blocks: int
    free_blocks: int
    cached_blocks: int
    owned_blocks: int
    context_length: int  # tokens that one request may hold: never more than the pool
    prefill_tokens: int = 0  # computed, recomputation after preemption included
    decode_tokens: int = 0  # sampled
    preemptions: int = 0


class Engine:
    """Serves one backend. Methods may be called from any thread, unless they say otherwise.

    At most `max_running` requests share a step and at most `chunk_tokens` tokens are in it; what
    would queue beyond `max_queued` requests or `max_queued_tokens` tokens is refused. `generator`
    draws for the requests without a seed.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        clock: Callable[[], float] = time.monotonic,
        generator: np.random.Generator | None = None,
        max_running: int = 32,
        max_queued: int = 256,
        max_queued_tokens: int = 32_768,
        chunk_tokens: int = 128,
    ) -> None:
        if chunk_tokens > backend.max_tokens:
            raise ValueError(f"chunk_tokens must be at most the backend's {backend.max_tokens}")
        self._backend = backend
        self._clock = clock
        self._generator = generator or np.random.default_rng()
        self._context_length = min(backend.spec.context_length, backend.blocks * BLOCK_SIZE)
        self._intake = Intake(max_requests=max_queued, max_tokens=max_queued_tokens)
        self._pool = BlockPool(backend.blocks, clock)
        self._scheduler = Scheduler(self._pool, max_running=max_running, chunk_tokens=chunk_tokens)
        self._numbers = count()
        self._prefill_tokens = self._decode_tokens = 0
        self._epoch = secrets.token_hex(8)
        self.metrics = EngineMetrics()
        self._stats = self._snapshot()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is not None:
            raise RuntimeError("the engine has been started before")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Aborts what is left after the current step; TimeoutError if that takes too long."""
        self._intake.close(stopping=True)
        if self._thread is None:
            self._abort_all()
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the engine's step did not end within {timeout} s")

    def submit(self, *submissions: Submission) -> None:
        """Queues requests of one prompt, all or none. Callbacks come on the engine's thread.

        Raises InvalidRequest, ContextLengthExceeded, RateLimited (the queue is full; with
        `retry_after_s`), Unavailable (draining), and ValueError for an id that is in use.
        """
        for submission in submissions:
            self._check(submission)
        self._intake.put(*submissions)

    def abort(self, request_id: str) -> None:
        """Ends a request before the next step, with ABORTED; nothing happens if it is over."""
        self._intake.abort(request_id)

    def drain(self) -> None:
        """From here on nothing new is taken; what was accepted goes on."""
        self._intake.close()

    def idle(self) -> bool:
        """Whether every accepted request has been told its end."""
        return self._intake.idle()

    def wait_idle(self, timeout: float) -> bool:
        """Waits for `idle`, at most `timeout` seconds; returns whether it is."""
        return self._intake.wait_idle(timeout)

    def stats(self) -> EngineStats:
        horizon = self._pool.horizon
        age = None if horizon is None else self._clock() - horizon
        return replace(self._stats, horizon_age_s=age)

    def step(self) -> bool:
        """One step, on the engine's thread; returns whether requests are left.

        If it fails, the requests that were running are told so and the engine lives on.
        """
        started = self._clock()
        self._receive()
        plan = self._scheduler.plan(started)
        self._publish()
        if plan is not None:
            try:
                self._advance(plan)
            except Exception as error:  # the rim: no failed step may end the engine
                self._fail_running(error)
            if plan.prefill_tokens or self._scheduler.waiting:
                self._intake.pace.add(plan.prefill_tokens, self._clock() - started)
            self._publish()
        return not self.idle()

    def check_integrity(self) -> None:
        """Raises AssertionError unless blocks and requests agree; on the engine's thread."""
        self._scheduler.check_integrity()

    def _run(self) -> None:
        try:
            while self._intake.wait_for_work():
                self.step()
        finally:
            self._intake.close()  # even if a callback raised: nobody would serve what comes
            self._abort_all()

    def _receive(self) -> None:
        for message in self._intake.take():
            if isinstance(message, Submission):
                self._scheduler.add(self._request(message))
            elif (request := self._scheduler.get(message)) is not None:
                self._finish(request, Finish.ABORTED)

    def _request(self, submission: Submission) -> Request:
        wanted = submission.sampling.max_tokens
        limit = self._context_length
        if wanted is not None:
            limit = min(limit, len(submission.prompt) + wanted)
        chain = Chain.of(self._backend.spec.fingerprint, submission.salt)
        return Request(submission, chain, next(self._numbers), self._clock(), limit)

    def _advance(self, plan: Plan) -> None:
        self.metrics.planned(plan, self._clock())
        logits = self._backend.forward(plan.batch())
        requests = plan.sampled
        tokens = sample(logits, [request.turn for request in requests], self._generator)
        finishes = self._scheduler.commit(plan, tokens)
        self._prefill_tokens += plan.prefill_tokens
        self._decode_tokens += len(tokens)
        now = self._clock()
        for request, row, token, finish in zip(requests, logits, tokens, finishes, strict=True):
            if token is None:
                self._fail(request, GatewayError("the model gave no finite logits"))
                continue
            wanted = request.submission.sampling.logprobs
            logprobs = None if wanted is None else logprobs_of(row, token, wanted)
            self.metrics.sampled(request, now)
            self._report(request, Output(token, finish, logprobs))

    def _report(self, request: Request, output: Output) -> None:
        """Tells the caller of its new token, and of the end if this is it."""
        finish = output.finish
        if request.submission.on_token(output):
            finish = Finish.STOP
        if finish is not None:
            self._finish(request, finish)

    def _finish(self, request: Request, finish: Finish) -> None:
        with self._ending(request):
            self.metrics.finished(request, finish, self._clock())
            request.submission.on_finish(finish, request.counts)

    def _fail(self, request: Request, error: GatewayError) -> None:
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

    def _fail_running(self, error: Exception) -> None:
        running = self._scheduler.running
        logger.error("a step of %d requests failed", len(running), exc_info=error)
        for request in running:
            failure = GatewayError("the replica failed while computing this answer")
            failure.__cause__ = error
            self._fail(request, failure)

    def _abort_all(self) -> None:
        self._receive()
        for request in list(self._scheduler):
            self._finish(request, Finish.ABORTED)
        self._publish()

    def _check(self, submission: Submission) -> None:
        size = len(submission.tokens)
        if not submission.prompt:
            raise InvalidRequest("the prompt must have at least one token")
        if size + 1 > self._context_length:
            raise ContextLengthExceeded(
                f"the prompt has {size} tokens, but prompt and output together may have "
                f"at most {self._context_length} here"
            )
        submission.check_tokens(self._backend.spec.vocabulary)

    def _publish(self) -> None:
        self._stats = self._snapshot()
        self._intake.report(self._stats.waiting, self._stats.queued_tokens)

    def _snapshot(self) -> EngineStats:
        return EngineStats(
            epoch=self._epoch,
            running=len(self._scheduler.running),
            waiting=self._scheduler.waiting,
            queued_tokens=self._scheduler.queued_tokens,
            horizon_age_s=None,  # an age belongs to the moment of asking
            block_size=BLOCK_SIZE,
            total_blocks=self._pool.total,
            free_blocks=self._pool.free,
            cached_blocks=self._pool.cached,
            owned_blocks=self._pool.owned,
            context_length=self._context_length,
            prefill_tokens=self._prefill_tokens,
            decode_tokens=self._decode_tokens,
            preemptions=self._scheduler.preemptions,
        )
