"""A run as OpenAI's events or as one object, at the pace of the machine that computes it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from gateway.emulator.embedding import vectors
from gateway.emulator.faults import Fault
from gateway.emulator.machine import Machine
from gateway.emulator.profile import Object, Profile, Usage
from gateway.emulator.run import Choice, Run

DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Event:
    """`data` of an event, or a comment. `tokens` that it carries."""

    data: bytes
    tokens: int = 0
    comment: bool = False

    @property
    def done(self) -> bool:
        return self.data == DONE and not self.comment


def encode(payload: object) -> bytes:
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


async def stream(
    run: Run, profile: Profile, machine: Machine, fault: Fault
) -> AsyncGenerator[Event, None]:
    """From the prompt's computation to `[DONE]`."""
    await machine.sleep(run.prefill_s)
    first = True
    for index, delta, tokens in _deltas(run, profile):
        if tokens:
            await machine.sleep(1 / machine.settings.tokens_per_s)
        chunk = _chunk(run, profile, index, delta)
        if first:
            profile.first_event(chunk, run)
            first = False
        yield Event(encode(chunk | _null_usage(run, profile)), tokens)
        run.produced[index] += tokens  # what was not sent is not charged
    ending = [Event(encode(event)) for event in _ending(run, profile, fault)]
    run.finished = True
    for event in ending:
        yield event
    if not fault.no_done:
        yield Event(DONE)


def _ending(run: Run, profile: Profile, fault: Fault) -> Iterator[Object]:
    wants = profile.usage_in is not Usage.ASKED or run.asked.include_usage
    usage = {} if fault.no_usage or not wants else {"usage": profile.usage(run)}
    for index, choice in enumerate(run.choices):
        reason = None if fault.no_finish_reason else profile.finish_reason(choice.finish)
        chunk = _chunk(run, profile, index, {}, reason) | _null_usage(run, profile)
        if index == len(run.choices) - 1:
            if profile.usage_in is Usage.FINISH:
                chunk |= usage
            profile.finish_event(chunk, run)
        yield chunk
    if usage and (profile.usage_in is not Usage.FINISH or fault.duplicate_usage):
        chunk = {**_head(run, profile, stream=True), "choices": [], **usage}
        profile.usage_event(chunk, run)
        yield chunk
        if fault.duplicate_usage and profile.usage_in is not Usage.FINISH:
            yield chunk


async def whole(run: Run, profile: Profile, machine: Machine, fault: Fault) -> Object:
    """The answer, after as long as it takes."""
    await machine.sleep(run.prefill_s)
    if run.asked.inputs:
        run.finished = True
        return vectors(run, profile, fault)
    longest = max(choice.token_count for choice in run.choices)
    for _ in range(longest):
        await machine.sleep(1 / machine.settings.tokens_per_s)
        for index, choice in enumerate(run.choices):
            run.produced[index] = min(run.produced[index] + 1, choice.token_count)
    answer: Object = {
        **_head(run, profile, stream=False),
        "choices": [_whole_choice(run, profile, fault, i) for i in range(len(run.choices))],
    }
    if not fault.no_usage:
        answer["usage"] = profile.usage(run)
    profile.whole(answer, run)
    run.finished = True
    return answer


def _whole_choice(run: Run, profile: Profile, fault: Fault, index: int) -> Object:
    choice = run.choices[index]
    reason = None if fault.no_finish_reason else profile.finish_reason(choice.finish)
    head: Object = {"index": index, "finish_reason": reason, "logprobs": None}
    if not run.asked.chat:
        return {**head, "text": choice.text}
    message: Object = {"role": "assistant", "content": choice.text}
    if choice.tool is not None:
        function = {"name": choice.tool, "arguments": choice.text}
        call = {"id": _call_id(run, index), "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    if choice.reasoning:
        message[profile.reasoning_field] = "".join(choice.reasoning)
    return {**head, "message": message}


def _deltas(run: Run, profile: Profile) -> Iterator[tuple[int, Object, int]]:
    """Choice, delta and its tokens; choices in turn, as engines compute them side by side."""
    if run.asked.chat:
        for index, choice in enumerate(run.choices):
            content: Object = {} if choice.tool else {"content": ""}
            yield index, {"role": "assistant", **content}, 0
    each = [_choice_deltas(run, profile, i, choice) for i, choice in enumerate(run.choices)]
    for deltas in zip_longest(*each):
        for index, delta in enumerate(deltas):
            if delta is not None:
                yield index, delta, 1


def _choice_deltas(run: Run, profile: Profile, index: int, choice: Choice) -> Iterator[Object]:
    for piece in choice.reasoning:
        yield {profile.reasoning_field: piece}
    for number, piece in enumerate(choice.pieces):
        if choice.tool is None:
            yield {"content": piece}
            continue
        call: Object = {"index": 0, "function": {"arguments": piece}}
        if number == 0:
            call |= {"id": _call_id(run, index), "type": "function"}
            call["function"]["name"] = choice.tool
        yield {"tool_calls": [call]}


def _call_id(run: Run, index: int) -> str:
    return f"call_{run.number}_{index}"


def _chunk(
    run: Run, profile: Profile, index: int, delta: Object, reason: str | None = None
) -> Object:
    choice: Object = {"index": index, "delta": delta, "finish_reason": reason}
    if not run.asked.chat:
        choice = {"index": index, "text": delta.get("content", ""), "finish_reason": reason}
    return {**_head(run, profile, stream=True), "choices": [choice]}


def _null_usage(run: Run, profile: Profile) -> Object:
    return {"usage": None} if profile.null_usage and run.asked.include_usage else {}


def _head(run: Run, profile: Profile, *, stream: bool) -> Object:
    kind = "text_completion"
    if run.asked.chat:
        kind = "chat.completion.chunk" if stream else "chat.completion"
    head = {"id": run.id, "object": kind, "created": run.created, "model": run.asked.model}
    return {**head, **profile.head(run)}
