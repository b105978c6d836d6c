"""What can go wrong with one answer. Knobs combine; docs/emulator.md has the table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from gateway.config.bind import Seconds


class Moment(int):
    """`headers` (before them), `first` (before the first event) or a number: after so many tokens.

    An answer that is not streamed breaks off in the middle of its body for a number.
    """

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        named = {"headers": HEADERS, "first": FIRST}
        if isinstance(value, str) and value in named:
            return cls(named[value])
        if type(value) is not int or value < 1:
            raise ValueError("must be headers, first, or a number of tokens from 1 on")
        return cls(value)


class Later(Moment):
    """A Moment that cannot be before the headers."""

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        if value == "headers":
            raise ValueError("must be first, or a number of tokens from 1 on")
        return super().from_yaml(value)


HEADERS, FIRST = -1, 0


class Choice(str):
    OPTIONS: tuple[str, ...] = ()
    __slots__ = ()

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        if value not in cls.OPTIONS:
            raise ValueError(f"must be one of {', '.join(cls.OPTIONS)}")
        return cls(value)


class Split(Choice):
    OPTIONS = ("frame", "character")
    __slots__ = ()


class BodyKind(Choice):
    OPTIONS = ("own", "html", "empty", "in_200")
    __slots__ = ()


def does(text: str) -> dict[str, str]:
    return {"does": text}


@dataclass(frozen=True, slots=True)
class Fault:
    refuse: Seconds | None = field(
        default=None, metadata=does("the port refuses connections for so long; this one is reset")
    )
    reset: Moment | None = field(default=None, metadata=does("the connection is reset (RST)"))
    silence: Moment | None = field(
        default=None, metadata=does("nothing more comes, and the connection stays open")
    )
    close: Later | None = field(
        default=None, metadata=does("a tidy end: no finish reason, no `[DONE]`")
    )
    truncate: Later | None = field(default=None, metadata=does("half an event, and a tidy end"))
    malformed: Later | None = field(
        default=None, metadata=does("an event of broken JSON; the answer goes on after it")
    )
    empty: Later | None = field(
        default=None, metadata=does("an empty `data:` event; the answer goes on after it")
    )
    error: Later | None = field(
        default=None, metadata=does("an error event in the provider's shape, and the end")
    )

    status: int | None = field(
        default=None, metadata=does("refused with this status, before any work")
    )
    body: BodyKind = field(
        default=BodyKind("own"),
        metadata=does(
            "of the refusal: `own` (the provider's), `html` (a CDN's), `empty`, "
            "`in_200` (the provider's, under status 200)"
        ),
    )
    code: str | None = field(
        default=None, metadata=does("of the refusal, instead of the provider's usual")
    )
    message: str | None = field(
        default=None, metadata=does("of the refusal, instead of the provider's usual")
    )
    retry_after: Seconds | None = field(default=None, metadata=does("header of the refusal"))
    headers: dict[str, str] = field(
        default_factory=dict, metadata=does("further headers of the answer or refusal")
    )

    delay: Seconds | None = field(default=None, metadata=does("before the headers"))
    first_token: Seconds | None = field(
        default=None, metadata=does("between the headers and the first token")
    )
    pace: Seconds | None = field(default=None, metadata=does("before each token"))
    trailing: Seconds | None = field(
        default=None, metadata=does("blank lines come for so long after `[DONE]`")
    )

    split: Split | None = field(
        default=None,
        metadata=does("each event in two TCP segments: in its middle, or in a character"),
    )
    join: bool = field(default=False, metadata=does("two events in each segment"))
    crlf: bool = field(default=False, metadata=does("lines end with CR LF"))
    no_space: bool = field(default=False, metadata=does("`data:` without the space"))
    gzip: bool = field(default=False, metadata=does("the body is compressed"))

    no_done: bool = field(default=False, metadata=does("no `[DONE]`"))
    no_finish_reason: bool = field(default=False, metadata=does("the finish reason stays null"))
    no_usage: bool = field(default=False, metadata=does("no usage"))
    duplicate_usage: bool = field(default=False, metadata=does("usage comes twice"))
    tool_call: bool = field(
        default=False, metadata=does("no fault: the answer calls the first tool that is offered")
    )

    def __post_init__(self) -> None:
        if self.status is not None and not 300 <= self.status <= 599:
            raise ValueError("status must be from 300 to 599")
        if self.status is None and self.body != "own":
            raise ValueError("body needs a status")


NONE = Fault()
