"""
Grammars over a model's tokens, by llguidance: which tokens may come next, so that what is said is
valid by construction.

It works on the vocabulary's bytes, in Rust and without the interpreter's lock. What a grammar may
cost, to read it and for each token, is bounded by llguidance's own limits (some 20 ms each).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from gateway.errors import InvalidRequest
from gateway.replica.constraint import Mask
from gateway.replica.json_schema import inclusive
from gateway.replica.text import Tokenizer

MOST_CHARACTERS = 1 << 18
"""Of one grammar."""

_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As Python writes JSON, in one line: a small model that may write blanks can write them forever.
llguidance reads this in a schema's own `x-guidance`, which a caller's therefore never is."""


def any_json(schema: Mapping[str, object]) -> str:
    """Lark for a JSON text that a schema allows. Raises InvalidRequest."""
    try:
        given = json.dumps({**inclusive(schema), "x-guidance": _STYLE}, allow_nan=False)
    except RecursionError:
        raise InvalidRequest("a JSON schema is nested too deeply") from None
    except (OverflowError, ValueError):  # 1e999 is JSON, and infinite to Python
        raise InvalidRequest("a JSON schema has a number that is too large") from None
    return f"%json {given}"


def literal(text: str) -> str:
    """Lark for just this text."""
    return json.dumps(text)


class Grammars:
    """Reads grammars for one tokenizer. Safe to use from several threads.

    To make one takes half a second for 50,000 tokens, with the interpreter's lock.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = LLTokenizer(
            _Vocabulary(tokenizer),  # type: ignore[arg-type] # it asks for these attributes only
            n_vocab=tokenizer.vocabulary,
            eos_token=sorted(tokenizer.stop_tokens) or [0],
        )
        self._limits = LLParserLimits(verbose_errors=False)  # they would quote a client's schema

    def literal(self, text: str) -> str:
        """Lark for this text, or for the control token of this name."""
        token = self._tokenizer.controls.get(text)
        return literal(text) if token is None else f"<[{token}]>"

    def read(self, lark: str, param: str) -> Grammar:
        """May take tens of milliseconds. Raises InvalidRequest that names what is not supported,
        and `param` as where it stands."""
        if len(lark) > MOST_CHARACTERS:
            raise InvalidRequest(
                f"{param} makes a grammar of {len(lark)} characters; {MOST_CHARACTERS} are allowed",
                param=param,
            )
        grammar = LLMatcher.grammar_from_lark(lark)
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise InvalidRequest(
                f"{param} cannot be kept to here: {_reason(matcher.get_error())}", param=param
            )
        read = Grammar(matcher, self._tokenizer.vocabulary)
        if _is_too_complex(read.begin()):
            raise InvalidRequest(
                f"{param} cannot be kept to here: too many things may come next", param=param
            )
        return read


class Grammar:
    """One grammar, read; any number of sequences may be held to it."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def begin(self, said: Sequence[int] = ()) -> Matcher:
        """For a sequence that has these output tokens already. Raises InvalidRequest if it could
        not have."""
        matcher = Matcher(self._matcher.deep_copy(), self._vocabulary)
        known = all(0 <= token < self._vocabulary for token in said)
        for token in said if known else ():
            matcher.take(token)
        if matcher.failed or not known:
            raise InvalidRequest(
                "continue_token_ids are not of an answer under this grammar",
                param="continue_token_ids",
            )
        return matcher


class Matcher:
    """A `Constraint`."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    @property
    def failed(self) -> bool:
        """Whether a limit was reached, or a token taken that the grammar does not have."""
        return self._matcher.is_error()

    @property
    def ended(self) -> bool:
        return self._matcher.is_stopped() and not self.failed

    def mask(self) -> Mask:
        bits = b"" if self.failed else self._matcher.compute_bitmask()
        if self.failed:
            return np.zeros(self._vocabulary, np.bool_)
        packed = np.frombuffer(bits, np.uint8)
        return np.unpackbits(packed, count=self._vocabulary, bitorder="little").view(np.bool_)

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)


def _is_too_complex(matcher: Matcher) -> bool:
    """On its first steps, where the caller can still be told so; later it ends the sequence."""
    for _ in range(3):
        allowed = np.flatnonzero(matcher.mask())
        if matcher.ended or not allowed.size:
            break
        matcher.take(int(allowed[0]))
    return matcher.failed


def _reason(error: str) -> str:
    """Without where it was found, in lines of Lark that no caller has seen."""
    lines = takewhile(lambda line: not _SOURCE.match(line), error.splitlines())
    return " ".join(" ".join(lines).rpartition("JSON schema: ")[2].split())[:300]


_SOURCE = re.compile(r"\s*\d+ \| ")


class _Vocabulary:
    """The tokenizer, as llguidance wants it."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.stop_tokens, default=0)
        self.tokens = [tokenizer.written(token) for token in range(tokenizer.vocabulary)]
        self.special_token_ids = sorted(tokenizer.controls.values())

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)
