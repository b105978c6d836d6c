"""From a request to what will be answered: who asks, what, whether it may, and where."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing

from gateway.emulator.asked import Asked, Refusal, read, read_inputs
from gateway.emulator.bill import Bill, Charge
from gateway.emulator.events import Event, encode, stream, whole
from gateway.emulator.faults import Fault
from gateway.emulator.http import Request
from gateway.emulator.limits import Account
from gateway.emulator.machine import Machine
from gateway.emulator.play import Outcome, as_outcome
from gateway.emulator.profile import Answer, Cold, Profile, query_value
from gateway.emulator.run import Run, choices
from gateway.emulator.tokens import blocks, tokens

EMBEDDINGS = "/embeddings"
RESULT = "__modal_function_call_id"
HTML = b"<html><head><title>Error</title></head><body><center><h1>%d</h1></center></body></html>"


class Service:
    def __init__(self, profile: Profile, seed: int, speed: float, now: Callable[[], float]) -> None:
        self.profile = profile
        self.bill = Bill()
        self.machine = Machine(profile.settings, seed, speed, now)
        self._seed = seed
        self._speed = speed
        self._now = now
        self._accounts: dict[str, Account] = {}
        self._results: dict[str, asyncio.Task[Outcome]] = {}

    async def close(self) -> None:
        for task in self._results.values():
            task.cancel()
        await asyncio.gather(*self._results.values(), return_exceptions=True)

    async def outcome(self, request: Request, number: int, fault: Fault) -> Outcome:
        try:
            if fault.status is not None:
                return self._refused_by(fault)
            return await self._answered(request, number, fault)
        except Refusal as refusal:
            return self._refused(refusal, refusal.status)

    def page(self, request: Request) -> Outcome:
        """What is asked about the place and not of it, as gateways do again and again: its models,
        its metrics. It meets no fault, and is none of the requests that a script counts."""
        try:
            if (answer := self.profile.route(request, self.machine)) is not None:
                return as_outcome(answer)
            self._account(request)
            if request.path != f"{self.profile.prefix}/models":
                raise self.profile.refusal(404)
            return as_outcome(self._models())
        except Refusal as refusal:
            return self._refused(refusal, refusal.status)

    def fetches_a_result(self, request: Request) -> bool:
        return query_value(request, RESULT) in self._results

    # Refusals

    def _refused_by(self, fault: Fault) -> Outcome:
        assert fault.status is not None
        refusal = self.profile.refusal(fault.status)
        refusal.code = fault.code or refusal.code
        refusal.message = fault.message or refusal.message
        if fault.retry_after is not None:
            refusal.headers["retry-after"] = f"{fault.retry_after:g}"
        if fault.body == "html":
            headers = {"content-type": "text/html", **refusal.headers}
            return Outcome(fault.status, headers, HTML % fault.status)
        if fault.body == "empty":
            return Outcome(fault.status, refusal.headers)
        return self._refused(refusal, 200 if fault.body == "in_200" else fault.status)

    def _refused(self, refusal: Refusal, status: int) -> Outcome:
        headers = {"content-type": "application/json", **refusal.headers}
        return Outcome(status, headers, encode(self.profile.body(refusal)))

    # Answers

    async def _answered(self, request: Request, number: int, fault: Fault) -> Outcome:
        """Raises Refusal."""
        profile = self.profile
        if (answer := profile.route(request, self.machine)) is not None:
            return as_outcome(answer)
        account = self._account(request)
        path = request.path.removeprefix(profile.prefix)
        if path == request.path and profile.prefix:
            raise profile.refusal(404)
        if request.method == "GET" and (known := query_value(request, RESULT)) in self._results:
            return await self._result(request, str(known), self._results[str(known)])
        if request.method != "POST" or path not in self._paths():
            raise profile.refusal(404)
        if path == EMBEDDINGS:
            asked = read_inputs(request.body)
        else:
            asked = read(
                request.body,
                chat=path == "/chat/completions",
                continues=profile.continues,
                prefills=profile.prefills,
            )
        work = self._inference(asked, request, number, fault, account)
        if profile.result_wait_s is None:
            return await work
        task = asyncio.create_task(self._primed(work))
        return await self._result(request, f"fc-{number}", task)

    def _paths(self) -> tuple[str, ...]:
        written = ("/chat/completions", "/completions")
        return (*written, EMBEDDINGS) if self.profile.embeds else written

    def _account(self, request: Request) -> tuple[str, Account]:
        key = self.profile.key(request.headers)
        known = self.profile.settings.keys
        if (self.profile.needs_key and key is None) or (known and key not in known):
            raise self.profile.refusal(401)
        name = key or ""
        if name not in self._accounts:
            self._accounts[name] = Account(
                self.profile.settings, self._now, adaptive=self.profile.adaptive
            )
        return name, self._accounts[name]

    def _models(self) -> Answer:
        names = self.profile.settings.models or (self.profile.model,)
        entry = {
            "object": "model",
            "created": 1_700_000_000,
            "owned_by": self.profile.name,
            **self.profile.model_entry(),
        }
        return Answer(200, encode({"object": "list", "data": [{"id": n, **entry} for n in names]}))

    async def _inference(
        self, asked: Asked, request: Request, number: int, fault: Fault, holder: tuple[str, Account]
    ) -> Outcome:
        """Raises Refusal."""
        profile, settings = self.profile, self.profile.settings
        name, account = holder
        if settings.models and asked.model not in settings.models:
            raise profile.unknown_model(asked.model)
        profile.check(asked)
        prompt = self._prompt(asked)
        await self._wait_for_start()
        if full := account.full(1 if profile.cached_is_free else len(prompt)):
            refusal = profile.limited(full, account, asked)
            refusal.headers = {**profile.limit_headers(account), **refusal.headers}
            raise refusal
        tier = profile.tier(asked)
        queue = settings.max_queued * (2 if tier == "priority" else 1)
        if queue and self.machine.waiting >= queue:
            raise profile.overloaded()
        account.spend_request()
        said = choices(asked, self._seed, tool_call=fault.tool_call)
        run = Run(number, name, asked, said, len(prompt), int(time.time()), tier)
        run.produced = [0] * len(said)
        salt = profile.cache_salt(asked, request.headers, name)
        ids = blocks(prompt, settings.block_tokens, salt)
        affinity = profile.affinity(asked, request.headers)
        events = self._events(run, account, ids, affinity, fault)
        return self._outcome_of(run, account, events)

    def _prompt(self, asked: Asked) -> list[str]:
        """Its tokens; cut from its beginning where the provider does so. Raises Refusal."""
        prompt = tokens(asked.conversation) + tokens(asked.begun)
        limit = self.profile.settings.context_tokens
        wanted = len(prompt) + (asked.max_tokens or 1)
        if asked.inputs:  # each has a context of its own
            wanted = max(len(tokens(text)) for text in asked.inputs)
        if wanted > limit:
            if refusal := self.profile.overflow(asked, len(prompt)):
                raise refusal
            prompt = prompt[-max(1, limit - (asked.max_tokens or 1)) :]
        return prompt

    async def _wait_for_start(self) -> None:
        """Raises Refusal."""
        wait_s = self.machine.start()
        if not wait_s:
            return
        if self.profile.cold is Cold.REFUSE:
            raise self.profile.starting(wait_s)
        longest = self.profile.settings.wait_s / self._speed
        await asyncio.sleep(min(wait_s, longest))
        if wait_s > longest:
            raise self.profile.refusal(504)

    def _outcome_of(
        self, run: Run, account: Account, events: AsyncGenerator[Event, None]
    ) -> Outcome:
        profile = self.profile
        streamed = run.asked.stream
        waiting = f": {profile.waiting_comment}\n\n" if profile.waiting_comment else None
        if not streamed:
            waiting = "\n" if profile.waiting_blank else None
        media_type = "text/event-stream" if streamed else "application/json"
        return Outcome(
            200,
            {
                "content-type": media_type,
                **profile.limit_headers(account),
                **profile.served_headers(run),
            },
            run=run,
            events=events,
            error=lambda: encode(profile.error_event(profile.refusal(500), run)),
            waiting=waiting.encode() if waiting else None,
            waiting_every_s=max(0.01, 1 / self._speed),
            headers_at_the_end=lambda: profile.whole_headers(run),
        )

    async def _events(
        self, run: Run, account: Account, ids: list[int], affinity: str | None, fault: Fault
    ) -> AsyncGenerator[Event, None]:
        with account.running():
            async with self.machine.place(ids, run.prompt_tokens, affinity) as place:
                run.began = True
                run.cached_tokens, run.replica = place.cached_tokens, place.replica.number
                run.queue_s, run.prefill_s = place.queue_s * self._speed, place.prefill_s
                run.decode_s = run.wanted_tokens / self.profile.settings.tokens_per_s
                if run.asked.stream:
                    async for event in stream(run, self.profile, self.machine, fault):
                        if run.finished:
                            self.settle(run)  # who reads the end can read the bill
                        yield event
                else:
                    answer = await whole(run, self.profile, self.machine, fault)
                    self.settle(run)
                    yield Event(encode(answer))

    # Results that are fetched later

    async def _primed(self, work: Coroutine[None, None, Outcome]) -> Outcome:
        """Done only when its first event is there."""
        outcome = await work
        assert outcome.events is not None
        first = await anext(outcome.events)
        outcome.events = _again(first, outcome.events)
        return outcome

    async def _result(self, request: Request, known: str, task: asyncio.Task[Outcome]) -> Outcome:
        """The answer, or after a while where it will be. Raises Refusal."""
        assert self.profile.result_wait_s is not None
        self._results[known] = task
        try:
            await asyncio.wait({task}, timeout=self.profile.result_wait_s / self._speed)
        except asyncio.CancelledError:
            task.cancel()
            self._results.pop(known, None)
            raise
        if task.done():
            self._results.pop(known, None)
            return task.result()
        where = f"http://{request.headers.get('host', '')}{request.path}"
        return Outcome(303, {"location": f"{where}?{RESULT}={known}"})

    # The bill

    def settle(self, run: Run, *, hung_up: bool = False) -> None:
        """Once, however often it is called."""
        if not run.began or run.settled:
            return
        run.settled = True
        goes_on = hung_up and self.profile.bills_hang_ups_whole
        completion = run.wanted_tokens if goes_on else run.completion_tokens
        usd = self.profile.usd(run, completion)
        free = run.cached_tokens if self.profile.cached_is_free else 0
        self._accounts[run.account].spend_tokens(run.prompt_tokens - free + completion)
        self.machine.generated_tokens += completion
        self.machine.finished += run.finished
        self.bill.charges.append(
            Charge(
                run.number,
                run.asked.model,
                run.prompt_tokens,
                run.cached_tokens,
                completion,
                usd,
                run.finished,
                run.tier,
            )
        )


async def _again(first: Event, rest: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    async with aclosing(rest):
        yield first
        async for event in rest:
            yield event
