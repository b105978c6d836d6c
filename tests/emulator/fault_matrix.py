"""
Every fault, streamed and not, at every moment, through a gateway and the OpenAI SDK.

`python -m tests.emulator.fault_matrix` writes docs/fault-matrix.md anew; a test compares.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from openai.types.chat import ChatCompletionChunk

from gateway.config.bind import Seconds, Secret
from gateway.config.tree import EndpointTimeouts
from gateway.domain import Attempt, Outcome
from gateway.emulator.emulated import emulated
from gateway.emulator.endpoint import Endpoint
from gateway.emulator.profiles import profiles
from tests.emulator.callers import CHAT, until
from tests.support.gateways import Running, gateway

PAGE = Path(__file__).parents[2] / "docs" / "fault-matrix.md"
AT_ONCE = 8
WHOLE = "the whole answer"
IMPATIENT = EndpointTimeouts(first_event=Seconds(2.5), between_events=Seconds(2.5))
ASK: dict[str, Any] = {**CHAT, "max_tokens": 12}

HEADERS, FIRST, MIDDLE, ALL = "before headers", "before the first event", "in the middle", "–"


@dataclass(frozen=True)
class Case:
    """`fault` is a script's. `when` is what it says, in words."""

    fault: str
    when: str
    profile: str = "openai"
    impatient: bool = False
    streams: tuple[bool, ...] = (True, False)
    script: str | None = None  # instead of the fault, always
    settings: tuple[tuple[str, Any], ...] = (("cold_start_s", 0.0),)
    hangs_up: bool = False  # the client, once the fault has set in

    @property
    def rules(self) -> str:
        return self.script or f"rules: [{{fault: {{{self.fault}}}}}]"


def statuses(*given: str) -> list[Case]:
    return [Case(fault, HEADERS) for fault in given]


BEFORE = [
    Case(
        "refuse: 60s",
        "nobody listens",
        script="rules: [{after: 1ms, fault: {refuse: 60s}}]",
    ),
    Case("refuse: 60s", HEADERS),
    Case("reset: headers", HEADERS),
    Case("silence: headers", HEADERS, impatient=True),
    Case("delay: 30s", HEADERS, impatient=True),
    *statuses(
        "status: 400",
        "status: 401",
        "status: 402",
        "status: 403",
        "status: 404",
        "status: 408",
        "status: 410",
        "status: 422",
        "status: 429",
        "status: 429, retry_after: 9s",
        "status: 500",
        "status: 500, body: empty",
        "status: 502, body: html",
        "status: 503",
        "status: 503, retry_after: 90s",
        "status: 504",
        "status: 529",
        "status: 429, body: in_200",
    ),
]
LATER = [
    Case(f"{knob}: {moment}", when, impatient=knob == "silence")
    for moment, when in (("first", FIRST), ("3", MIDDLE))
    for knob in ("reset", "silence", "close", "truncate", "error")
] + [
    Case("first_token: 30s", FIRST, impatient=True),
    Case("malformed: first, pace: 50ms", FIRST),
    Case("malformed: 3, pace: 50ms", MIDDLE),
]
FRAMING = [
    Case(fault, ALL)
    for fault in (
        "split: frame",
        "split: character",
        "join: true",
        "crlf: true",
        "no_space: true",
        "gzip: true",
        "trailing: 50ms",
        "no_done: true",
        "no_usage: true",
        "duplicate_usage: true",
        "no_finish_reason: true",
    )
] + [Case("empty: 3", MIDDLE, streams=(True,)), Case("empty: first", FIRST)]
COLD = (("cold_start_s", 600.0),)
HELD = (("cold_start_s", 400.0),)
OWN = [
    Case("cold", HEADERS, "fireworks-dedicated", script="rules: []", settings=COLD),
    Case("cold", HEADERS, "modal-server", script="rules: []", settings=COLD),
    Case("cold, and held", HEADERS, "baseten-dedicated", script="rules: []", settings=HELD),
    Case(
        "cold, and held too long",
        HEADERS,
        "baseten-dedicated",
        impatient=True,
        script="rules: []",
        settings=(("cold_start_s", 90_000.0), ("wait_s", 90_000.0)),
    ),
    Case("303, and 303 again", HEADERS, "modal-function", script="rules: []", settings=HELD),
    Case("status: 498", HEADERS, "groq"),
    Case("status: 400, code: tool_use_failed", HEADERS, "groq"),
    Case("status: 412", HEADERS, "fireworks"),
    Case("status: 524, body: html", HEADERS, "together"),
    Case("status: 403", HEADERS, "together"),
    Case(
        "a prompt that is too long",
        HEADERS,
        "together",
        script="rules: []",
        settings=(("context_tokens", 16),),
    ),
    Case("status: 503, body: in_200", HEADERS, "openrouter"),
    Case("error: first", FIRST, "openrouter"),
    Case("error: 3", MIDDLE, "openrouter"),
    Case("error: 3", MIDDLE, "cerebras"),
    Case(": keep-alive", FIRST, "deepseek", script="rules: []", settings=(("overhead_s", 2000.0),)),
]
HANG_UPS = [
    Case("silence: headers", HEADERS, hangs_up=True),
    Case("silence: first", FIRST, hangs_up=True),
    Case("silence: 3", MIDDLE, hangs_up=True),
]
ENGINES = [
    Case(case.fault, case.when, "vllm", case.impatient, (True,))
    for case in LATER
    if case.when == MIDDLE
]


@dataclass(frozen=True)
class Seen:
    """By the client, of one answer."""

    what: str
    text: str = ""


@dataclass(frozen=True)
class World:
    gateway: Running
    endpoints: list[Endpoint]


@asynccontextmanager
async def world(case: Case, *, both: bool) -> AsyncIterator[World]:
    """Two endpoints: the first has the fault, the second as well or else answers."""
    second = case.profile if both or case.profile == "vllm" else "openai"
    settings = dict(case.settings)
    async with AsyncExitStack() as stack:
        first = emulated(case.profile, script=case.rules, **settings)
        rules, own = (case.rules, settings) if both else ("rules: []", {"cold_start_s": 0.0})
        there = [
            await stack.enter_async_context(each)
            for each in (first, emulated(second, script=rules, **own))
        ]
        patience = {"timeouts": IMPATIENT} if case.impatient else {}
        said = [
            {**_speaking(case.profile), **patience},
            {**_speaking(second), **(patience if both else {})},
        ]
        running = await stack.enter_async_context(
            gateway(*(each.url for each in there), endpoint=said)
        )
        yield World(running, there)


def _speaking(name: str) -> dict[str, Any]:
    credentials = {key: Secret(value) for key, value in profiles()[name].credentials.items()}
    return {"dialect": name.replace("-", "_"), **credentials}


async def cells(case: Case, stream: bool, *, both: bool = False) -> tuple[str, ...]:
    """What the client saw, the tries, the charges."""
    async with world(case, both=both) as there:
        g, (first, second) = there.gateway, there.endpoints
        if "after: 1ms" in case.rules:
            await until(lambda: first.refuses and (second.refuses or not both))
        seen = await (hung_up(there, stream, case) if case.hangs_up else asked(g, stream))
        (outcome,) = await g.settled.wait_for(1)
        await until(lambda: all(r.settled for r in (*first.requests, *second.requests)))
        assert g.in_flight() == {"u0": 0, "u1": 0}, case
        assert len(g.settled.outcomes) == 1, case
    _check(case, outcome, seen, there.endpoints)
    return seen.what, _tries(outcome.attempts), _charged(there.endpoints)


async def asked(g: Running, stream: bool) -> Seen:
    """One answer through the SDK, which does not try again."""
    pieces: list[str] = []
    sdk = g.sdk.with_options(timeout=60)  # longer than the gateway hopes for somebody to take it up
    try:
        if not stream:
            (choice,) = (await sdk.chat.completions.create(**ASK)).choices
            untold = "" if choice.finish_reason else ", and not why it ended"
            return Seen(WHOLE + untold, choice.message.content or "")
        chunks: list[ChatCompletionChunk] = []
        async for chunk in await sdk.chat.completions.create(**ASK, stream=True):
            chunks.append(chunk)
            pieces += [c.delta.content or "" for c in chunk.choices]
    except openai.APIError as error:
        begun = "its beginning, then " if any(pieces) else ""
        return Seen(begun + _named(error), "".join(pieces))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert len({chunk.id for chunk in chunks}) == 1
    assert len([c for c in choices if c.finish_reason]) == 1
    assert len([c for c in choices if c.delta.role]) == 1
    return Seen(WHOLE, "".join(pieces))


def _named(error: openai.APIError) -> str:
    told = [f"{type(error).__name__} `{error.code}`"]
    if isinstance(error, openai.APIStatusError):
        headers = error.response.headers
        told += [
            f"`{name}: {headers[name]}`"
            for name in ("retry-after", "x-should-retry")
            if name in headers
        ]
    return ", ".join(told)


async def hung_up(there: World, stream: bool, case: Case) -> Seen:
    faulty, _ = there.endpoints
    asking = asyncio.create_task(asked(there.gateway, stream))
    await until(lambda: faulty.requests)
    if case.when != HEADERS:
        await until(lambda: faulty.requests[0].status)
    await asyncio.sleep(0.05)  # for the beginning of the answer to come through
    asking.cancel()
    await asyncio.wait({asking})
    await until(lambda: faulty.requests[0].hung_up)
    return Seen("nothing more: it has hung up")


def _check(case: Case, outcome: Outcome, seen: Seen, endpoints: Iterable[Endpoint]) -> None:
    """What holds in every row."""
    assert all(attempt.ended for attempt in outcome.attempts), case
    charges = [charge for each in endpoints for charge in each.bill.charges]
    for attempt in outcome.attempts:
        if attempt.billed is not None:
            told = (attempt.billed.prompt_tokens, attempt.billed.completion_tokens)
            assert told in [(c.prompt_tokens, c.completion_tokens) for c in charges], case
    if seen.what == WHOLE:
        assert outcome.error is None, case
        assert seen.text == EXPECTED[0], case
    elif seen.text:
        assert EXPECTED[0].startswith(seen.text), case


def _tries(attempts: Iterable[Attempt]) -> str:
    names = {"u0": "first", "u1": "second"}
    return ", ".join(
        f"{names[a.endpoint]}{' resumes' if a.resumed else ''}: {a.error or a.ended}"
        for a in attempts
    )


def _charged(endpoints: list[Endpoint]) -> str:
    told = [
        f"{name}: {'all' if charge.complete else 'a part'}"
        for name, each in zip(("first", "second"), endpoints, strict=True)
        for charge in each.bill.charges
    ]
    return ", ".join(told) or "nothing"


EXPECTED: list[str] = []
"""The answer, undisturbed."""


async def table(cases: Iterable[Case], *, both: bool = False) -> str:
    gate = asyncio.Semaphore(AT_ONCE)

    async def gated(case: Case, stream: bool) -> tuple[str, ...]:
        async with gate:
            return await cells(case, stream, both=both)

    runs = [(case, stream) for case in cases for stream in case.streams]
    seen = dict(zip(runs, await asyncio.gather(*(gated(*run) for run in runs)), strict=True))
    head = "| fault | when | streamed | the client saw | tries | charged |\n"
    return head + "|---|---|---|---|---|---|\n" + "".join(_rows(seen))


def _rows(seen: dict[tuple[Case, bool], tuple[str, ...]]) -> Iterator[str]:
    """One for both, where they are the same streamed and not."""
    for (case, stream), told in seen.items():
        same = seen.get((case, not stream)) == told
        if same and not stream:
            continue
        fault = f"{case.profile}: `{case.fault}`" if case in OWN else f"`{case.fault}`"
        streamed = "either" if same else "yes" if stream else "no"
        yield f"| {' | '.join((fault, case.when, streamed, *told))} |\n"


async def page() -> str:
    async with emulated("openai") as there, gateway(there.url, endpoint=_speaking("openai")) as g:
        EXPECTED[:] = [(await asked(g, False)).text]
    return TEXT.format(
        before=await table(BEFORE),
        later=await table(LATER),
        framing=await table(FRAMING),
        engines=await table(ENGINES),
        own=await table(OWN),
        hang_ups=await table(HANG_UPS),
        both=await table([*BEFORE, *LATER], both=True),
    )


TEXT = """# The fault matrix

What a client sees when an endpoint fails, what the gateway tries, and what is charged. This page is
made by running it: `python -m tests.emulator.fault_matrix` writes it, and a test holds that it is
true. Two imitated endpoints (`emulator.md`, where the faults are explained) stand behind a real
gateway, and the `openai` SDK asks, with its own retries switched off. The first endpoint fails, the
second answers, unless a heading says otherwise.

In every row there is exactly one answer, whole or an error; a stream has one id, one role, one
finish reason; no endpoint is left leased. *Charged* is what the imitation would bill: all of its
answer, or the part until it broke. Where an attempt told its usage, the gateway's books agree.

What is not an endpoint's failure has tests of its own: bad requests, headers and bodies
(`tests/front`, `tests/line/test_server.py`), keys and addresses that must not leak
(`tests/line/test_errors.py`, `tests/line/test_owned_fields.py`), slow readers and hang-ups
(`tests/line/test_hang_up.py`), a bad config in a running gateway (`tests/line/test_reload.py`),
going down (`tests/line/test_drain.py`), answers that cannot be taken up
(`tests/line/test_resume.py`).

## Before any of the answer is there

{before}
## The answer breaks, at endpoints that cannot go on with another's

{later}
## The same, at engines that can

Two of vLLM. What the client has is a part of the second one's prompt.

{engines}
## Answers that are only unusual

{framing}
## What some providers do

{own}
## The client hangs up

{hang_ups}
## Both endpoints fail

{both}"""


def main() -> None:
    PAGE.write_text(asyncio.run(page()), encoding="utf-8")


if __name__ == "__main__":
    main()
