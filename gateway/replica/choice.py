"""One choice of an answer: what the engine tells of it, made into pieces for the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.replica.api import Ask
from gateway.replica.logprobs import Scored
from gateway.replica.manner import PLAIN, Manner
from gateway.replica.request import Counts, Finish, Output
from gateway.replica.speech import Said
from gateway.replica.text import Tokenizer
from gateway.replica.text_stream import TextStream


@dataclass(frozen=True, slots=True)
class Done:
    finish: Finish
    counts: Counts
    reasoning_tokens: int = 0  # of those that were completed
    called: bool = False  # some tool
    stopped_by: str | None = None  # a stop string

    @property
    def reason(self) -> str:
        """As OpenAI has it."""
        whole = self.finish is Finish.STOP
        return "tool_calls" if self.called and whole else self.finish.value


@dataclass(frozen=True, slots=True)
class Piece:
    """What became certain of one choice at once."""

    index: int
    said: Said
    tokens: tuple[int, ...] = ()  # sampled since the piece before
    scored: tuple[Scored, ...] = ()  # of these, those that the client may see
    end: Done | None = None  # in the choice's last piece

    @classmethod
    def joined(cls, pieces: Sequence[Piece]) -> Piece:
        """One piece in place of a choice's consecutive ones, of which there is at least one."""
        return cls(
            index=pieces[0].index,
            said=Said.joined([piece.said for piece in pieces]),
            tokens=tuple(token for piece in pieces for token in piece.tokens),
            scored=tuple(each for piece in pieces for each in piece.scored),
            end=pieces[-1].end,
        )


class Choice:
    """Belongs to the engine's thread once it is submitted, and calls `put` there.

    A piece's tokens are all that the engine has sampled when its text became certain. So whoever
    replays the tokens of some pieces is exactly where these pieces ended, half characters and
    half stop strings included. For the same reason the text of the last token goes out together
    with the end: between the two nothing can be cut.
    """

    def __init__(
        self,
        index: int,
        ask: Ask,
        tokenizer: Tokenizer,
        put: Callable[[Piece], None],
        manner: Manner = PLAIN,
    ) -> None:
        own_ends = frozenset[int]() if ask.ignore_eos else tokenizer.stop_tokens
        self.index = index
        self.stop_tokens = ask.sampling.stop_tokens | own_ends
        self._put = put
        self._include_stop = ask.include_stop
        self._stream = TextStream(
            tokenizer,
            ask.stop,
            include_stop=ask.include_stop,
            min_tokens=ask.sampling.min_tokens,
            written=manner.written(tokenizer),
        )
        self._speech = manner.speech()
        self._said = Said()  # by the last token
        self._called = False
        self._reasoning_tokens = 0
        self._tokens: list[int] = []
        self._scored: list[Scored] = []

    def replay(self, continued: Sequence[int], room: int) -> Finish | None:
        """Goes to where these tokens were delivered, without telling their text again.

        Returns why nothing is left to sample, if so; `room` is how many tokens may be in all.
        """
        for token in continued:
            if token in self.stop_tokens:
                return Finish.STOP
            self._hear(self._stream.push(token))
        if self._stream.stopped_by is not None:
            return Finish.STOP
        return Finish.LENGTH if continued and len(continued) >= room else None

    def end_at_once(self, finish: Finish, counts: Counts) -> None:
        """What was delivered before was the whole answer: only its end is told."""
        self._put(Piece(self.index, Said(), end=self._done(finish, counts)))

    def on_token(self, output: Output) -> bool:
        stream = self._stream
        self._tokens.append(output.token)
        if output.token not in self.stop_tokens or self._include_stop:
            if output.logprobs is not None:
                self._scored.append(Scored(output.token, stream.length, output.logprobs))
            self._said += self._hear(stream.push(output.token))
        stopped = stream.stopped_by is not None
        if self._said and output.finish is None and not stopped:
            self._put(self._piece())
        return stopped

    def on_finish(self, finish: Finish, counts: Counts) -> None:
        whole = finish is Finish.STOP and self._stream.stopped_by is None
        last = self._speech.push(self._stream.finish()) + self._speech.finish(whole)
        self._said += last
        self._called = self._called or bool(last.calls)
        self._put(self._piece(self._done(finish, counts)))

    def _hear(self, text: str) -> Said:
        """What one token's text says."""
        self._reasoning_tokens += self._speech.thinking
        said = self._speech.push(text)
        self._called = self._called or bool(said.calls)
        return said

    def _done(self, finish: Finish, counts: Counts) -> Done:
        stopped_by = self._stream.stopped_by
        return Done(finish, counts, self._reasoning_tokens, self._called, stopped_by)

    def _piece(self, end: Done | None = None) -> Piece:
        piece = Piece(self.index, self._said, tuple(self._tokens), tuple(self._scored), end)
        self._said = Said()
        self._tokens.clear()
        self._scored.clear()
        return piece
