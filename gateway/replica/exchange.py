"""
One request and its answer, in one task that never loses sight of the client.

The engine works in its own thread; what it says reaches the task through an `Inbox`. The client may
hang up at any moment, before the first token and in an answer that is not streamed too, so the
connection is listened to from the first line. Hanging up is a normal ending.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from starlette.types import Send

from gateway.domain import Operation, ReplicaReport
from gateway.replica.answer import Answer
from gateway.replica.api import Ask
from gateway.replica.choice import Choice, Piece
from gateway.replica.grammar import Grammar
from gateway.replica.inbox import Inbox
from gateway.replica.manner import PLAIN, Manner
from gateway.replica.request import Counts, Finish, Submission
from gateway.replica.text import Tokenizer


class Submits(Protocol):
    """What an exchange needs of the engine."""

    def submit(self, *submissions: Submission) -> None:
        """All or none. Raises ContextLengthExceeded, RateLimited or Unavailable."""
        ...

    def abort(self, request_id: str) -> None:
        """Frees a request at the next step; one that is over already is left alone."""
        ...


@dataclass(frozen=True, slots=True)
class Exchange:
    ask: Ask
    prompt: tuple[int, ...]
    engine: Submits
    context_length: int  # tokens that prompt and output may have together
    tokenizer: Tokenizer
    report: Callable[[], ReplicaReport | None]  # asked for when the answer ends
    inbox: Inbox
    manner: Manner = PLAIN
    grammar: Grammar | None = None
    traced: Callable[[Finish, Counts], None] | None = None
    """Told of each choice's end, on a thread of the engine."""

    async def run(self, send: Send) -> list[Piece]:
        """Answers the request; raises before the first byte whatever can be known by then.

        Returns the last piece of each choice.
        """
        ask = self.ask
        kind = "chatcmpl" if ask.operation is Operation.CHAT else "cmpl"
        answer_id = f"{kind}-{uuid.uuid4().hex}"
        put, manner = self.inbox.put, self.manner
        choices = [Choice(i, ask, self.tokenizer, put, manner) for i in range(ask.n)]
        submissions = [self._submission(answer_id, choice) for choice in choices]
        submissions[0].check_tokens(self.tokenizer.vocabulary)
        answer = self._answer(answer_id)
        respond = self._stream if ask.stream else self._whole
        over = choices[0].replay(ask.continued or (), self._room)
        constraint = submissions[0].constraint
        if constraint is not None and constraint.ended:
            over = Finish.STOP
        if over is not None:
            delivered = len(ask.continued or ())
            choices[0].end_at_once(over, Counts(len(self.prompt), 0, delivered))
            return await respond(answer, send)
        with _submitted(self.engine, submissions):
            return await respond(answer, send)

    async def _stream(self, answer: Answer, send: Send) -> list[Piece]:
        ended: list[Piece] = []
        started = False
        out = b"".join(answer.first(index) for index in range(self.ask.n))
        while len(ended) < self.ask.n:
            pieces = await self.inbox.take()
            out += b"".join(map(answer.piece, pieces))
            ended += (piece for piece in pieces if piece.end is not None)
            is_last = len(ended) == self.ask.n
            if is_last:
                thought = sum(piece.end.reasoning_tokens for piece in ended if piece.end)
                out += answer.last(_counts(ended), self.report(), thought)
            if not started:
                await send(_start(answer.id, b"text/event-stream", (b"cache-control", b"no-cache")))
                started = True
            await send({"type": "http.response.body", "body": out, "more_body": not is_last})
            out = b""
        return ended

    async def _whole(self, answer: Answer, send: Send) -> list[Piece]:
        pieces: list[list[Piece]] = [[] for _ in range(self.ask.n)]
        while not all(each and each[-1].end for each in pieces):
            for piece in await self.inbox.take():
                pieces[piece.index].append(piece)
        choices = [Piece.joined(each) for each in pieces]
        body = answer.whole(choices, _counts(choices), self.report())
        length = (b"content-length", str(len(body)).encode())
        await send(_start(answer.id, b"application/json", length))
        await send({"type": "http.response.body", "body": body})
        return choices

    @property
    def _room(self) -> int:
        """Tokens that the output may have; the engine keeps the same limit."""
        room = self.context_length - len(self.prompt)
        wanted = self.ask.sampling.max_tokens
        return room if wanted is None else min(room, wanted)

    def _answer(self, answer_id: str) -> Answer:
        ask, prompt = self.ask, self.ask.prompt
        echoed = ""
        if ask.echo:
            echoed = prompt if isinstance(prompt, str) else self.tokenizer.decode(self.prompt)
        return Answer(
            operation=ask.operation,
            id=answer_id,
            created=int(time.time()),
            model=ask.model,
            include_usage=ask.include_usage,
            tokenizer=self.tokenizer,
            logprobs=ask.sampling.logprobs,
            token_ids=ask.return_token_ids,
            echoed=echoed,
            begun=ask.continued is not None,
        )

    def _submission(self, answer_id: str, choice: Choice) -> Submission:
        ask = self.ask
        seed = ask.sampling.seed
        sampling = replace(
            ask.sampling,
            stop_tokens=choice.stop_tokens,
            # seeds have 64 bits, so no choice draws as another request's first one does
            seed=None if seed is None else seed + (choice.index << 64),
        )
        return Submission(
            id=f"{answer_id}-{choice.index}",
            prompt=self.prompt,
            sampling=sampling,
            on_token=choice.on_token,
            on_finish=_both(self.traced, choice.on_finish) if self.traced else choice.on_finish,
            on_error=self.inbox.fail,
            salt=ask.cache_salt,
            priority=ask.priority,
            continued=ask.continued or (),
            constraint=None if self.grammar is None else self.grammar.begin(ask.continued or ()),
        )


def _both(
    first: Callable[[Finish, Counts], None], then: Callable[[Finish, Counts], None]
) -> Callable[[Finish, Counts], None]:
    def both(finish: Finish, counts: Counts) -> None:
        first(finish, counts)
        then(finish, counts)

    return both


@contextmanager
def _submitted(engine: Submits, submissions: Sequence[Submission]) -> Iterator[None]:
    engine.submit(*submissions)
    try:
        yield
    finally:
        for submission in submissions:
            engine.abort(submission.id)


def _counts(ended: Sequence[Piece]) -> Counts:
    """Of the whole answer: all choices share one prompt; the first found the cache as it was."""
    counts = [piece.end.counts for piece in sorted(ended, key=_index) if piece.end is not None]
    completion = sum(each.completion_tokens for each in counts)
    return replace(counts[0], completion_tokens=completion)


def _index(piece: Piece) -> int:
    return piece.index


def _start(answer_id: str, content_type: bytes, *more: tuple[bytes, bytes]) -> dict[str, object]:
    headers = [(b"content-type", content_type), (b"x-request-id", answer_id.encode()), *more]
    return {"type": "http.response.start", "status": 200, "headers": headers}
